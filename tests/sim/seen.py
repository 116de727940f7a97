#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""What users see: timeouts, and the time to the next expiry, in ss (which asks inet_diag), tcp_info
and /proc/net/tcp; and the kernel's counters against what is on the wire."""

import os
import random
import re
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, near, run, sleep_us, within  # noqa: E402

ROUGHLY = 12            # us
TICK = 1000             # us
CLOCK = 10_000          # us: what /proc/net/tcp counts
MSS = 1448
RTO_MINS = 200, 10_000, 200_000
TIMER = re.compile(r"timer:\((\w+),(?:([\d.]+)sec)?(?:(\d+)ms)?,(\d+)\)")


class Seen:
    """What ss and /proc/net/tcp say of one end of a connection. Times in us"""

    def __init__(self, lab, host, s):
        port, peer = s.getsockname()[1], s.getpeername()[1]
        self.at = time.time() * 10**6
        self.line = run("ip", "netns", "exec", host, "ss", "-tinoHO", f"sport = :{port} and dport = :{peer}")
        row = lab.sockets(host)[port]
        found = TIMER.search(self.line)
        self.timer, self.left, self.retries = None, 0, 0
        if found:
            self.timer, self.retries = found[1], int(found[4])
            self.left = float(found[2] or 0) * 10**6 + int(found[3] or 0) * 1000
        kind, left = row[5].split(":")
        self.proc_timer, self.proc_left, self.proc_retries = int(kind, 16), int(left, 16) * CLOCK, int(row[6], 16)
        self.proc_probes = int(row[8])
        self.proc_rto = int(row[12]) * CLOCK

    def value(self, name):
        """One of ss' values in ms"""
        found = re.search(rf"\b{name}:([\d.]+)", self.line)
        assert found, self.line
        return float(found[1]) * 1000

    def check(self, timer, proc_timer, expiry):
        """That timer is said to expire then"""
        assert self.timer == timer, f"ss: {self.line}"
        near("/proc/net/tcp: tr", self.proc_timer, proc_timer, 0)
        # In ticks, rounded up, that have begun before the start and before this look;
        # /proc/net/tcp rounds down to its clock.
        left = expiry - self.at
        within("ss: time to expiry", self.left, left - TICK, left + 2 * TICK)
        if proc_timer:
            within("/proc/net/tcp: time to expiry", self.proc_left, left - TICK - CLOCK, left + 2 * TICK)


def tcp_info(s):
    """(RTO, ATO)"""
    return struct.unpack_from("=II", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 8)


def times(wire):
    return [t for t, _, _ in wire.segments()]


def look_within_backoff(lab, c, times_sent):
    """Lose a segment, and look when it has been sent again so often. Returns what is seen, and when
    the last and the next retransmission were"""
    wire = lab.capture()
    rto = c.info()[0]
    c.lose()
    c.send()
    sleep_us((1.4 * 2**times_sent - 1) * rto)
    seen = Seen(lab, "a", c.a)
    sent = times(wire)
    near("retransmissions", len(sent) - 1, times_sent, 0)
    sleep_us(2**times_sent * rto)
    return seen, sent[-1], times(wire)[0]


# How often it is sent again until somebody looks, and how often of these after the kernel's own timeout.
# Of more than a second, the wheel makes up to 1/8 more.
OFTEN = {200: (7, 0), 10_000: (3, 0), 200_000: (1, 1)}


@case(*OFTEN)
def retransmission(lab, rto_min):
    """What counts timeouts counts the kernel's own"""
    often, counted = OFTEN[rto_min]
    lab.sysctl("a", tcp_rto_min=rto_min, tcp_early_retrans=0)
    with lab.connect() as c:
        rto = c.info()[0] << often
        seen, last, following = look_within_backoff(lab, c, often)
        seen.check("on", 1, following)
        near("ss: retransmissions", seen.retries, counted, 0)
        near("/proc/net/tcp: retrnsmt", seen.proc_retries, counted, 0)
        # ss prints six digits.
        near("ss: rto", seen.value("rto"), rto, 2)
        near("ss: rto", seen.value("rto"), following - last)


@case(*RTO_MINS)
def retransmission__timeout_in_proc(lab, rto_min):
    """/proc/net/tcp's timeout is the kernel's own, in hundredths of a second"""
    lab.sysctl("a", tcp_rto_min=rto_min, tcp_early_retrans=0)
    with lab.connect() as c:
        often, rto = (5, c.info()[0] << 5) if rto_min == 200_000 else (3, 200_000)
        seen = look_within_backoff(lab, c, often)[0]
        within("/proc/net/tcp: timeout", seen.proc_rto, 0.99 * rto - CLOCK, 1.01 * rto + CLOCK)


@case
def retransmission__jitter(lab):
    """A timer that is lengthened at random is seen to be so"""
    lab.sysctl("a", tcp_rto_min=10_000, tcp_early_retrans=0, tcp_rto_jitter=100)
    with lab.connect() as c:
        wire = lab.capture()
        for _ in range(5):
            c.lose()
            c.send()
            sleep_us(1000)
            seen = Seen(lab, "a", c.a)
            sleep_us(100_000)
            seen.check("on", 1, times(wire)[1])
            c.recover()
            c.exchange(20)
            wire.segments()


@case
def loss_probe(lab):
    """Seen as a retransmission, as ever"""
    lab.delay(20_000)
    lab.sysctl("a", tcp_rto_min=50_000)
    with lab.connect(exchanges=100) as c:
        wire = lab.capture()
        rtt = c.info()[1]
        c.lose()
        c.send(2)
        sleep_us(5000)
        seen = Seen(lab, "a", c.a)
        sleep_us(60_000)
        first, _, probe, *_ = times(wire)
        near("probe", probe - first, 2 * rtt + 500, ROUGHLY)
        seen.check("on", 1, probe)
        near("ss: retransmissions", seen.retries, 0, 0)


@case(200, 200_000)
def zero_window_probe(lab, rto_min):
    lab.sysctl("a", tcp_rto_min=rto_min, tcp_early_retrans=0)
    lab.sysctl("b", tcp_rmem="4096 4096 4096")
    with lab.connect() as c:
        c.fill()
        sleep_us(1_000_000)
        seen = Seen(lab, "a", c.a)
        probes = c.a.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[3]
        wire = lab.capture(empty=True)
        sleep_us(1_000_000)
        seen.check("persist", 4, times(wire)[0])
        near("ss: probes", seen.retries, probes, 0)
        near("/proc/net/tcp: probes", seen.proc_probes, probes, 0)


@case(500, 30_000)
def delayed_ack(lab, us):
    lab.sysctl("b", tcp_delack_min=us)
    with lab.connect() as c:
        wire = lab.capture(empty=True, incoming=True)
        c.send()
        c.receive()
        sleep_us(us / 2)
        seen = Seen(lab, "b", c.b)
        ato = tcp_info(c.b)[1]
        sleep_us(2 * us)
        (ack,) = times(wire)
        # ss has no name for this one.
        seen.check("unknown", 0, ack - lab.rtt_us)
        near("tcpi_ato", ato, us, 1)
        near("ss: ato", seen.value("ato"), ato, 1)


@case
def idle(lab):
    """No timer is seen, though one may be left on the clock"""
    with lab.connect() as c:
        # All has been acknowledged by now, after 40 ms at most.
        sleep_us(60_000)
        seen = Seen(lab, "a", c.a)
        assert seen.timer is None, f"ss: {seen.line}"
        near("/proc/net/tcp: tr", seen.proc_timer, 0, 0)
        near("/proc/net/tcp: tm->when", seen.proc_left, 0, 0)


def grown(before, after, name):
    return after[name] - before[name]


@case(200, 10_000)
def counters__timeouts(lab, rto_min):
    """A retransmission each, when nothing else is to be sent"""
    lab.sysctl("a", tcp_rto_min=rto_min, tcp_early_retrans=0)
    with lab.connect() as c:
        before = lab.nstat("a")
        on_wire = len(c.lose_one(lab.capture(), 300_000))
        after = lab.nstat("a")
        within("retransmissions", on_wire, 4, 20)
        near("TcpExtTCPTimeouts", grown(before, after, "TcpExtTCPTimeouts"), on_wire, 0)
        near("TcpRetransSegs", grown(before, after, "TcpRetransSegs"), on_wire, 0)


@case
def counters__loss_probes(lab):
    """A probe that repairs the loss counts as such, and is a retransmission too"""
    lab.sysctl("a", tcp_rto_min=10_000)
    with lab.connect() as c:
        before = lab.nstat("a")
        wire, on_wire = lab.capture(), 0
        for _ in range(20):
            c.send()
            c.lose()
            c.send()
            c.lose(False)
            c.receive(2)
            on_wire += len(times(wire)) - 2
            # The window was halved.
            c.exchange(20)
            wire.segments()
        after = lab.nstat("a")
        near("retransmissions", on_wire, 20, 0)
        near("TcpExtTCPLossProbes", grown(before, after, "TcpExtTCPLossProbes"), on_wire, 0)
        near("TcpExtTCPTimeouts", grown(before, after, "TcpExtTCPTimeouts"), 0, 0)
        near("TcpRetransSegs", grown(before, after, "TcpRetransSegs"), on_wire, 0)


@case
def counters__all_kinds(lab):
    """Losses at random, repaired by timeout, probe and RACK: each segment sent again is counted"""
    lab.sysctl("a", tcp_rto_min=500)
    chance = random.Random(1)
    with lab.connect() as c:
        before = lab.nstat("a")
        wire = lab.capture()
        for _ in range(200):
            for _ in range(4):
                c.lose(chance.random() < 0.2)
                c.send()
            sleep_us(chance.choice((0, 100, 3000)))
            c.lose(False)
            c.receive(4)
        after = lab.nstat("a")
        on_wire, end = 0, None
        for _, number, length in wire.segments():
            if end is not None and number != end:
                on_wire += -(-length // MSS)
            else:
                end = (number + length) % 2**32
        within("segments sent again", on_wire, 100, 2000)
        near("TcpRetransSegs", grown(before, after, "TcpRetransSegs"), on_wire, 0)
        for name in "TcpExtTCPTimeouts", "TcpExtTCPLossProbes", "TcpExtTCPFastRetrans":
            within(name, grown(before, after, name), 5, on_wire)


@case(500, 40_000)
def counters__delayed_acks(lab, us):
    lab.sysctl("b", tcp_delack_min=us)
    with lab.connect() as c:
        before, fired = lab.nstat("b"), lab.stat("b")["AcksFired"]
        wire, on_wire = lab.capture(empty=True, incoming=True), 0
        for _ in range(20):
            # Or the kernel acknowledges the next at once.
            c.exchange(5)
            wire.segments()
            c.send()
            c.receive()
            sleep_us(100_000)
            on_wire += len(times(wire))
        near("ACKs", on_wire, 20, 0)
        near("TcpExtDelayedACKs", grown(before, lab.nstat("b"), "TcpExtDelayedACKs"), on_wire, 0)
        near("AcksFired", lab.stat("b")["AcksFired"] - fired, on_wire, 0)


if __name__ == "__main__":
    main()
