#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched
"""What must not change: times that are the same with finetcp as on a kernel
without it, but for the rounding of the timer wheel (up to 1/8 and some ticks).
"""

import errno
import os
import select
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, near, sleep_us, within  # noqa: E402

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
RTT = 50
TIMESTAMP = 1000        # us: what is compared are timestamps


def check_wheel(what, us, least, slack=5):
    """Never before the formula says, never after the wheel would"""
    within(what, us, least - slack, least * 9 / 8 + 5000)


def set_minimum(lab, rto_min):
    """finetcp's own, which stock does not have: with less than 200 ms, the kernel's stays what it is"""
    lab.sysctl("a", tcp_early_retrans=0, **({"tcp_rto_min": rto_min} if FINETCP else {}))


def dies_after(connection):
    """Microseconds until the kernel gives up on what is lost now"""
    connection.lose()
    start = time.monotonic()
    connection.send()
    poll = select.poll()
    poll.register(connection.a, select.POLLERR)
    poll.poll(1000_000)
    took = (time.monotonic() - start) * 10**6
    near("SO_ERROR", connection.a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ETIMEDOUT, 0)
    return took


@case
def default__retransmissions(lab):
    lab.sysctl("a", tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect() as c:
        gaps = c.lose_one(wire, 30_000_000)
        near("retransmissions", len(gaps), 7, 0)
        for n, gap in enumerate(gaps):
            check_wheel(f"retransmission {n + 1}", gap, 200_000 + RTT << n)


@case
def default__syn(lab):
    """RFC 6298: a second before the first sample"""
    lab.sysctl("a", tcp_syn_linear_timeouts=0)
    lab.meet()
    wire = lab.capture(empty=True)
    with lab.connecting(lost=True):
        sleep_us(10_000_000)
    gaps = wire.gaps()
    near("retransmissions", len(gaps), 3, 0)
    for n, gap in enumerate(gaps):
        check_wheel(f"SYN {n + 1}", gap, 1_000_000 << n)


@case(200, 200000)
def zero_window_probe(lab, rto_min):
    """They keep their base of 200 ms"""
    lab.sysctl("a", tcp_rto_min_us=rto_min, tcp_early_retrans=0)
    lab.sysctl("b", tcp_rmem="4096 4096 4096")
    with lab.connect() as c:
        c.fill()
        sleep_us(1_000_000)
        wire = lab.capture(empty=True)
        sleep_us(60_000_000)
        gaps = wire.gaps()
        near("doublings in a minute", len(gaps), 5, 0)
        for n, gap in enumerate(gaps):
            check_wheel(f"probe {n + 1}", gap, 1_600_000 << n)


@case(200, 200000)
def user_timeout(lab, rto_min):
    """TCP_USER_TIMEOUT of 2 s: counted from the kernel's own first retransmission"""
    set_minimum(lab, rto_min)
    with lab.connect() as c:
        c.a.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000)
        check_wheel("given up", dies_after(c), 2_200_000, TIMESTAMP)


@case(200, 200000)
def retries2(lab, rto_min):
    """Counts time, not retransmissions: 3 are worth 3 s, as if each connection had a timeout of
    200 ms. That is looked at when the kernel's own timer expires, so the end is 200 ms * (2^n - 1)"""
    set_minimum(lab, rto_min)
    lab.sysctl("a", tcp_retries2=3)
    with lab.connect() as c:
        check_wheel("given up", dies_after(c), 6_200_000, TIMESTAMP)


if __name__ == "__main__":
    main()
