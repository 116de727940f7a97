#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""How long does an ACK wait? To the microsecond, on the virtual clock."""

import os
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import TICK, case, main, near, sleep_us, within  # noqa: E402

RTT = 50
ROUGHLY = 12            # us


def ato(s):
    """tcpi_ato in us"""
    return struct.unpack_from("=I", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 12)[0]


@case(20, 200, 1999, 2500, 200000)
def below_the_minimal_timeout(lab, rto_min):
    """Not so long that the sender, with the same settings, would take it for a loss"""
    lab.sysctl("b", tcp_rto_min=rto_min)
    delay = min(40_000, max(rto_min // 2, rto_min - TICK))
    with lab.connect() as c:
        near("acknowledgement", lab.ack_delay(c), RTT + delay, ROUGHLY)


@case
def second_segment(lab):
    """Two segments are acknowledged at once"""
    with lab.connect() as c:
        near("acknowledgement", lab.ack_delay(c, segments=2), RTT, 2 * ROUGHLY)


@case
def travels_with_data(lab):
    """And then the timer has nothing to do"""
    before = lab.stat("b")
    with lab.connect() as c:
        wire = lab.capture(empty=True, incoming=True)
        c.send()
        sleep_us(10_000)
        c.receive()
        c.b.sendall(b"y")
        sleep_us(100_000)
        near("segments from b", len(wire.segments()), 1, 0)
    after = lab.stat("b")
    within("AcksDelayed", after["AcksDelayed"] - before["AcksDelayed"], 1, 1000)
    near("AcksFired", after["AcksFired"], before["AcksFired"], 0)


@case(20, 137, 500, 5000, 40000)
def delack_min(lab, us):
    lab.sysctl("b", tcp_delack_min=us)
    with lab.connect() as c:
        near("acknowledgement", lab.ack_delay(c), RTT + us, ROUGHLY)
        near("tcpi_ato", ato(c.b), us, 1)


@case
def delack_min__live_change(lab):
    """A connection follows a change, up and down"""
    with lab.connect() as c:
        for us in 40000, 200, 7000, 40000:
            lab.sysctl("b", tcp_delack_min=us)
            near("acknowledgement", lab.ack_delay(c), RTT + us, ROUGHLY)
            c.exchange(20)


@case
def delack_min__follows_the_gaps(lab):
    """Segments further apart than half of it: twice the gap, but not more than a round trip. Where it
    changes, what the prediction had above it stays"""
    lab.delay(2000)
    lab.sysctl("b", tcp_delack_min=400)
    with lab.connect() as c:
        near("tcpi_ato", ato(c.b), 400, 5)
        wire = lab.capture()
        for _ in range(20):
            c.send()
            c.receive()
            sleep_us(250)
        want = 400
        for gap in wire.gaps():
            within("gap", gap, 250, 350)
            want = want / 2 + gap
        near("tcpi_ato", ato(c.b), want, 5)
        lab.sysctl("b", tcp_delack_min=300)
        near("tcpi_ato", ato(c.b), want - 100, 5)


@case
def delayed_ack__off(lab):
    """Every segment with data is acknowledged at once"""
    lab.sysctl("b", tcp_delayed_ack=0)
    before = lab.stat("b")["AcksDelayed"]
    with lab.connect() as c:
        near("acknowledgement", lab.ack_delay(c), RTT, ROUGHLY)
        wire = lab.capture(empty=True, incoming=True)
        for _ in range(10):
            c.send()
            c.receive()
            sleep_us(RTT / 2)
        sleep_us(10 * RTT)
        near("acknowledgements of ten segments", len(wire.segments()), 10, 0)
        near("AcksDelayed", lab.stat("b")["AcksDelayed"], before, 0)
        lab.sysctl("b", tcp_delayed_ack=1)
        c.exchange(20)
        near("acknowledgement when it is on again", lab.ack_delay(c), RTT + 40000, ROUGHLY)


if __name__ == "__main__":
    main()
