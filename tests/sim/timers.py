#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""When does TCP send again? To the microsecond, on the virtual clock.

The round trip is steady, 50 us and a little (a look at the virtual clock takes
some nanoseconds). So after a few exchanges nothing is left of the variance but
its floor, the minimal timeout: the timeout is 50 us more than that.
"""

import itertools
import os
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import (PORT, TICK, case, check_waits, main, near, run, sleep_us, waits,  # noqa: E402
                 within)

RTT = 50
ROUGHLY = 12            # us
SETTLE = 300            # exchanges until a sample in milliseconds (the timestamps') is forgotten
RTO_MINS = 50, 200, 1000, 10000, 200000


def settings(lab, rto_min, probes=False):
    lab.sysctl("a", tcp_rto_min=rto_min, tcp_early_retrans=3 if probes else 0)


def check_timeout(connection, wire, minimum):
    """Lose one segment"""
    rto, rtt = connection.info()
    near("tcpi_rto", rto, rtt + minimum)
    (gap,) = connection.lose_one(wire, 1.5 * rto)
    near("first retransmission", gap, rto)
    connection.recover()


def timeouts(lab, us, exchanges=30):
    """A connection's timeout and round trip, and the gaps between the attempts for a lost segment in that time"""
    wire = lab.capture()
    with lab.connect(exchanges=exchanges) as c:
        return *c.info(), c.lose_one(wire, us)


def check_first_timeout(lab, rto_min, family):
    settings(lab, rto_min)
    wire = lab.capture()
    with lab.connect(family) as c:
        near("tcpi_rtt", c.info()[1], RTT, ROUGHLY)
        check_timeout(c, wire, rto_min)


@case(*RTO_MINS)
def first_timeout(lab, rto_min):
    check_first_timeout(lab, rto_min, socket.AF_INET)


@case(*RTO_MINS)
def first_timeout_ipv6(lab, rto_min):
    check_first_timeout(lab, rto_min, socket.AF_INET6)


@case
def first_timeout__long_path(lab):
    """A long path keeps a long timeout: the minimum is the floor of the variance only"""
    settings(lab, 200)
    lab.delay(30000)
    wire = lab.capture()
    with lab.connect(exchanges=100) as c:
        near("tcpi_rtt", c.info()[1], 30000, ROUGHLY)
        check_timeout(c, wire, 200)


@case
def first_timeout__route_before_sysctl(lab):
    settings(lab, 200)
    run("ip", "-n", "a", "route", "change", "10.0.0.0/24", "dev", "e0", "rto_min", "7ms")
    wire = lab.capture()
    with lab.connect() as c:
        check_timeout(c, wire, 7000)


@case
def first_timeout__after_a_longer(lab):
    """The wheel's timer still waits for a deadline that was far ahead, and may have been rounded up
    by more than there is time now"""
    for pause in range(600, 800, 9):
        settings(lab, 900_000)
        with lab.connect(exchanges=1) as c:
            sleep_us(1000 * pause)
            settings(lab, 60_000)
            check_timeout(c, lab.capture(), 60_000)


@case
def first_timeout__after_one_of_the_kernel(lab):
    """The wheel's timer waits for a deadline beyond a second, which the kernel has moved it to"""
    settings(lab, 900_000)
    with lab.connect(exchanges=1) as c:
        settings(lab, 1_500_000)
        c.exchange(1)
        sleep_us(250_000)
        settings(lab, 700_000)
        check_timeout(c, lab.capture(), 700_000)


@case(50, 200, 10000)
def backoff_doubles(lab, rto_min):
    """Until the kernel's own timeout, and from there on that doubles"""
    settings(lab, rto_min)
    wire = lab.capture()
    with lab.connect() as c:
        rto, rtt = c.info()
        gaps = c.lose_one(wire, 6_000_000)
        within("retransmissions", len(gaps), 8, 20)
        check_waits(gaps, waits(rto, rtt))
        # An answer ends the backoff.
        c.recover()
        c.exchange(SETTLE)
        rto, rtt = c.info()
        near("tcpi_rto", rto, rtt + rto_min)


def say_unreachable(lab, connection, sequence):
    """A router's answer to the segment"""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0,
                     socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2"))
    tcp = struct.pack("!HHI", connection.a.getsockname()[1], PORT, sequence)

    def message(checksum):
        return struct.pack("!BBHI", 3, 1, checksum, 0) + ip + tcp

    words = sum(struct.unpack("!18H", message(0)))
    words = (words & 0xffff) + (words >> 16)
    with lab.on("b"), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.sendto(message(~(words + (words >> 16)) & 0xffff), ("10.0.0.1", 0))


@case(1500, 10000, 200000)
def backoff__taken_back(lab, rto_min):
    """RFC 6069: if the destination is unreachable, the last doubling was for nothing. The timeout
    still counts from the last retransmission. Early timeouts double nothing that counts"""
    settings(lab, rto_min)
    wire, seen = lab.capture(), lab.capture()
    with lab.connect() as c:
        rto, rtt = c.info()
        gaps = c.lose_one(wire, 300_000, lambda: say_unreachable(lab, c, seen.segments()[-1][1]), 200_000)
    wanted = list(itertools.islice(waits(rto, rtt), len(gaps)))
    check_waits(gaps[:-1], wanted)
    near("the time of the kernel's own timeout", sum(gaps[:-1]), 200_000 + rtt, TICK)
    # By ticks
    within("the one after that", gaps[-1], 200_000, 200_000 + 3 * TICK)


@case(100, 250)
def first_timeout__variance_limited(lab, percent):
    """Where the round trip varies much, the variance term is a part of it at most, if that is set"""
    settings(lab, 20)
    wire = lab.capture()
    with lab.connect() as c:
        for _ in range(10):
            for rtt in 10 * RTT, RTT:
                lab.delay(rtt)
                c.exchange(2)
        all_, _ = c.info()
        lab.sysctl("a", tcp_rto_variance_max=percent)
        rto, rtt = c.info()
        within("tcpi_rto without", all_, rto + 100, 40 * RTT)
        near("tcpi_rto", rto, rtt + rtt * percent // 100)
        (gap,) = c.lose_one(wire, 1.5 * rto)
        near("first retransmission", gap, rto)


@case
def first_timeout__variance_of_a_long_path(lab):
    """Of 200 ms or more nothing is taken away"""
    settings(lab, 20)
    lab.sysctl("a", tcp_rto_variance_max=10)
    lab.delay(250_000)
    with lab.connect(exchanges=3) as c:
        rto, rtt = c.info()
        within("tcpi_rto", rto, rtt + rtt // 2, 3 * rtt)


@case(1, 3, 6)
def backoff__linear(lab, linear):
    """The first timeouts in a row are not doubled, if that is set"""
    settings(lab, 1000)
    lab.sysctl("a", tcp_linear_timeouts=linear)
    rto, rtt, gaps = timeouts(lab, 200_000)
    within("retransmissions", len(gaps), linear + 4, 20)
    check_waits(gaps, waits(rto, rtt, linear))


@case(1500, 4000)
def backoff__up_to_a_maximum(lab, most):
    """For a while no timeout is doubled beyond the maximum, if that is set"""
    settings(lab, 1000)
    lab.sysctl("a", tcp_backoff_max=most)
    rto, rtt, gaps = timeouts(lab, 400_000)
    within("retransmissions", len(gaps), 34, 60)
    check_waits(gaps, waits(rto, rtt, most=most))


@case
def backoff__linear_not_on_a_long_path(lab):
    """Nor any early timeout, where no answer could come before the kernel's own"""
    settings(lab, 200)
    lab.sysctl("a", tcp_linear_timeouts=3)
    lab.delay(250_000)
    rto, rtt, gaps = timeouts(lab, 2_000_000, exchanges=100)
    near("tcpi_rto", rto, rtt + 200_000)
    for n in range(2):
        near(f"retransmission {n + 1}", gaps[n], rto << n)


@case(1000, 10000)
def loss_probe__two_in_flight(lab, rto_min):
    """RFC 8985, 7.2: after two round trips and a little, and the timeout counts from there"""
    settings(lab, rto_min, probes=True)
    wire = lab.capture()
    with lab.connect() as c:
        rto, rtt = c.info()
        c.lose()
        wire.segments()
        c.send(2)
        sleep_us(2.5 * rto)
        (_, first, _), (t1, second, _), (t2, probe, _), (t3, again, _) = wire.segments()[:4]
        near("probe", t2 - t1, min(2 * rtt + min(rto_min / 100, 2000), rto))
        near("sequence number of the probe", probe, second, 0)
        near("timeout", t3 - t2, rto)
        near("sequence number of the retransmission", again, first, 0)


@case(10, 100)
def backoff__jitter(lab, percent):
    """Each timeout is lengthened by another random part of the share, and never shortened"""
    settings(lab, 1000)
    lab.sysctl("a", tcp_rto_jitter=percent)
    rto, _, gaps = timeouts(lab, 60_000)
    within("retransmissions", len(gaps), 4, 20)
    parts = [gap / (rto << n) - 1 for n, gap in enumerate(gaps)]
    within("least of them", min(parts), -0.005, percent / 100)
    within("most of them", max(parts), 0.05 * percent / 100, percent / 100 + 0.005)
    within("different ones", len({round(part, 4) for part in parts}), len(parts) - 1, len(parts))


@case
def loss_probe__one_in_flight(lab):
    """It allows for a delayed acknowledgement, but is not later than the timeout"""
    settings(lab, 10000, probes=True)
    wire = lab.capture()
    with lab.connect() as c:
        rto, rtt = c.info()
        before = lab.nstat("a")["TcpExtTCPLossProbes"]
        near("probe", c.lose_one(wire, 1.5 * rto)[0], min(2 * rtt + 10000, rto))
        near("probes", lab.nstat("a")["TcpExtTCPLossProbes"] - before, 1, 0)


@case
def reordering_timer(lab):
    """RFC 8985, 6.2: a quarter of the round trip after the acknowledgement of a later segment, and a little"""
    settings(lab, 10000)
    wire = lab.capture()
    with lab.connect() as c:
        rtt = c.info()[1]
        wire.segments()
        c.lose()
        c.send()
        c.lose(False)
        c.send()
        c.receive(2)
        (t0, first, _), _, (t2, again, _) = wire.segments()
        near("retransmission", t2 - t0, rtt + rtt // 4 + 10000 // 100)
        near("its sequence number", again, first, 0)


@case(50, 10000)
def deadline_moves__no_expiry(lab, rto_min):
    """Deadlines that move later take the timer along now and then, so that it need not expire, and
    none is left behind"""
    settings(lab, rto_min)
    with lab.connect() as c:
        before = lab.stat()
        c.exchange(1000)
        after = lab.stat()
        grown = {name: after[name] - before[name] for name in after}
        # a thousand deadlines, in 50 ms
        near("deadlines", grown["TimersStarted"] + grown["TimersRearmed"], 1000, 20)
        if rto_min >= 10000:
            # Several ticks ahead: the wheel has them all.
            near("TimersStarted", grown["TimersStarted"], 0, 0)
        near("TimersEarly", grown["TimersEarly"], 0, 0)
        near("TimersFired", grown["TimersFired"], 0, 0)
        sleep_us(1_000_000)
        near("TimersFired when all is acknowledged", lab.stat()["TimersFired"], after["TimersFired"], 0)
        near("timers on the clock", armed_timers(), 0, 0)
        c.lose()
        c.send()
        if rto_min >= 10000:
            # Several ticks ahead: it waits on the wheel until there is one left, or two.
            near("timers on the clock at first", armed_timers(), 0, 0)
            sleep_us(9500)
        near("timers on the clock", armed_timers(), 1, 0)
    near("timers on the clock after the abort", armed_timers(), 0, 0)


@case
def live_change__next_timer_start(lab):
    """A connection follows a change of the minimum, down and up"""
    settings(lab, 200000)
    wire = lab.capture()
    with lab.connect() as c:
        for rto_min in 200000, 200, 200000, 1000, 50:
            settings(lab, rto_min)
            check_timeout(c, wire, rto_min)
            c.exchange(SETTLE)


@case
def live_change__other_namespace(lab):
    settings(lab, 200)
    lab.sysctl("b", tcp_rto_min=3000)
    wire = lab.capture()
    with lab.connect() as c:
        check_timeout(c, wire, 200)


def armed_timers():
    with open("/proc/timer_list", encoding="ascii") as f:
        return sum("finetcp" in line for line in f if line.startswith(" #"))


if __name__ == "__main__":
    main()
