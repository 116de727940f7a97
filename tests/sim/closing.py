#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched
"""How a connection ends: a lost FIN is sent again after the timeout, and however short that is, a
closed socket lives as long as on a kernel without finetcp."""

import errno
import os
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, near, run, sleep_us, within  # noqa: E402

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
RTO_MINS = 200, 200_000
FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING = 4, 5, 6, 9, 11     # include/net/tcp_states.h
SECOND = 1_000_000      # us
STEP = 50_000           # us: how often a socket is looked for


def settings(lab, rto_min):
    for host in "ab":
        lab.sysctl(host, tcp_rto_min_us=rto_min, tcp_early_retrans=0)


def check(what, us, want):
    """To the microsecond up to a second. The timer wheel may round up, by 1/8 and some ticks"""
    if FINETCP and want <= SECOND:
        near(what, us, want)
    else:
        within(what, us, want - 5, want * 9 / 8 + 5000)


def state(s):
    return s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def shut(s):
    s.shutdown(socket.SHUT_WR)


def state_of(lab, port):
    """Of a's socket of that port, which no program may have any more; none: there is no such"""
    row = lab.sockets("a").get(port)
    return int(row[3], 16) if row else None


def lives(lab, port, expected):
    """Microseconds until a's socket, which must be in the state at first, is no more"""
    start = time.monotonic()
    near("state", state_of(lab, port), expected, 0)
    while state_of(lab, port):
        sleep_us(STEP)
    return (time.monotonic() - start) * 10**6


def connect(lab):
    """A connection of which a can write all that a case does, though nobody acknowledges it"""
    c = lab.connect()
    c.a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return c


def orphan(lab, segments=1):
    """a closes, and loses its peer before that has all. Returns its port"""
    c = connect(lab)
    port = c.a.getsockname()[1]
    c.lose()
    c.send(segments)
    c.a.close()
    c.b.close()
    return port


def check_fin(connection, wire, want, rto_min):
    """a has closed, and its FIN is lost"""
    rto, rtt = connection.info()
    if FINETCP:
        near("tcpi_rto", rto, rtt + rto_min)
    near("state", state(connection.a), want, 0)
    sleep_us(20 * rto)
    sent = wire.segments()
    # Not the ACKs, which come after it in order
    fins = [t for t, number, length in sent if number == sent[0][1] and not length]
    within("FINs", len(fins), 5, 5)
    for n, (earlier, later) in enumerate(zip(fins, fins[1:])):
        check(f"retransmission {n + 1}", later - earlier, rto << n)
    connection.lose(False)


@case(*RTO_MINS)
def fin_wait1__fin_lost(lab, rto_min):
    settings(lab, rto_min)
    with lab.connect() as c:
        c.lose()
        wire = lab.capture(empty=True)
        shut(c.a)
        check_fin(c, wire, FIN_WAIT1, rto_min)
        sleep_us(20 * SECOND)
        near("state when it has arrived", state(c.a), FIN_WAIT2, 0)


@case(*RTO_MINS)
def last_ack__fin_lost(lab, rto_min):
    settings(lab, rto_min)
    with lab.connect() as c:
        shut(c.b)
        sleep_us(100_000)
        c.lose()
        wire = lab.capture(empty=True)
        shut(c.a)
        check_fin(c, wire, LAST_ACK, rto_min)


@case(*RTO_MINS)
def closing__fin_lost(lab, rto_min):
    settings(lab, rto_min)
    with lab.connect() as c:
        c.lose()
        wire = lab.capture(empty=True)
        shut(c.b)
        shut(c.a)
        sleep_us(lab.rtt_us)
        check_fin(c, wire, CLOSING, rto_min)


@case(*RTO_MINS)
def orphan__default_retries(lab, rto_min):
    """8 are worth 102.2 s: 200 ms * (2^9 - 1). That is looked at when the timer expires"""
    settings(lab, rto_min)
    port = orphan(lab)
    within("microseconds", lives(lab, port, FIN_WAIT1), 102_200_000, 2 * 102_200_000)


@case(*RTO_MINS)
def orphan__linear_timeouts(lab, rto_min):
    """Which are left out of that"""
    settings(lab, rto_min)
    if FINETCP:
        lab.sysctl("a", tcp_linear_timeouts=6)
    port = orphan(lab)
    within("microseconds", lives(lab, port, FIN_WAIT1), 102_200_000, 2 * 102_200_000)


@case(*RTO_MINS)
def orphan__three_retries(lab, rto_min):
    """200 ms * (2^4 - 1)"""
    settings(lab, rto_min)
    lab.sysctl("a", tcp_orphan_retries=3)
    port = orphan(lab)
    within("microseconds", lives(lab, port, FIN_WAIT1), 3_000_000, 2 * 3_200_000 + SECOND)


@case(*RTO_MINS)
def orphan__longest_timeout(lab, rto_min):
    """Without a number, it ends when the timeout has grown to the longest. Without finetcp, that
    is 200, 400, 800 and 1000 ms; or, if it may be short, 2, 4, 8, ... 512, 1000 ms"""
    settings(lab, rto_min)
    lab.sysctl("a", tcp_rto_max_ms=1000)
    port = orphan(lab)
    least = {200: 2_022_000, 200_000: 2_400_000}[rto_min]
    within("microseconds", lives(lab, port, FIN_WAIT1), least, 2 * least + SECOND)


@case(*RTO_MINS)
def orphan__unsent_data(lab, rto_min):
    """More than the window takes: the FIN is behind it in the queue"""
    settings(lab, rto_min)
    lab.sysctl("a", tcp_orphan_retries=3)
    port = orphan(lab, segments=100)
    within("microseconds", lives(lab, port, FIN_WAIT1), 3_000_000, 2 * 3_200_000 + SECOND)


@case(*RTO_MINS)
def orphan__peer_comes_back(lab, rto_min):
    """All that was written arrives, and the end of it"""
    settings(lab, rto_min)
    c = connect(lab)
    port = c.a.getsockname()[1]
    run("tc", "-n", "b", "qdisc", "replace", "dev", "e0", "root", "netem", "loss", "100%")
    c.send(100)
    c.a.close()
    sleep_us(40 * SECOND)
    near("state", state_of(lab, port), FIN_WAIT1, 0)
    c.b.settimeout(100)     # if it never comes
    lab.delay(lab.rtt_us)
    c.receive(100)
    near("bytes after that", len(c.b.recv(1)), 0, 0)
    sleep_us(100_000)
    near("state", state_of(lab, port), FIN_WAIT2, 0)
    c.b.close()
    sleep_us(100_000)
    near("state", state_of(lab, port), TIME_WAIT, 0)


@case(*RTO_MINS)
def time_wait__a_minute(lab, rto_min):
    settings(lab, rto_min)
    c = lab.connect()
    port = c.a.getsockname()[1]
    c.a.close()
    c.b.close()
    sleep_us(STEP)
    check("TIME_WAIT", lives(lab, port, TIME_WAIT), 60 * SECOND - STEP)


@case(*RTO_MINS)
def time_wait__reused(lab, rto_min):
    """By a connection of the same ports, after a second, if that is set; and it works"""
    settings(lab, rto_min)
    lab.meet()
    lab.sysctl("a", ip_local_port_range="40001 40001", tcp_tw_reuse=0)
    c = lab.connect()
    c.a.close()
    c.b.close()
    sleep_us(2 * SECOND)
    near("state", state_of(lab, 40001), TIME_WAIT, 0)
    try:
        lab.connect()
    except OSError as error:
        near("connect()'s error", error.errno, errno.EADDRNOTAVAIL, 0)
    else:
        raise AssertionError("there was no TIME_WAIT")
    lab.sysctl("a", tcp_tw_reuse=1)
    wire = lab.capture()
    with lab.connect() as c:
        rto = c.info()[0]
        check("retransmission", c.lose_one(wire, 1.5 * rto)[0], rto)
        c.recover()


@case(5, 60, 120)
def fin_wait2__timeout(lab, seconds):
    """tcp_fin_timeout"""
    settings(lab, RTO_MINS[0])
    lab.sysctl("a", tcp_fin_timeout=seconds)
    c = lab.connect()
    port = c.a.getsockname()[1]
    c.a.close()
    sleep_us(STEP)
    check("FIN_WAIT2", lives(lab, port, FIN_WAIT2), seconds * SECOND - STEP)
    c.b.close()


if __name__ == "__main__":
    main()
