#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""A retransmission that was not needed is found out, and the window is what it was before.

What can tell: F-RTO (RFC 5682), if the ACK of a segment comes that was sent only once; DSACK (RFC
2883), if the receiver says of all retransmissions that it had them; and the time stamp of the
original in an ACK (Eifel, RFC 3522), if it is older than the retransmission. Below a millisecond
that takes time stamps in microseconds (the route's feature tcp_usec_ts).
"""

import collections
import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, near, run, set_tos, sleep_us, within  # noqa: E402

LATE = 0x40             # a type of service: what has it reaches b later
LATER = 30              # us
MS = 1000               # us
COUNTERS = ("TcpRetransSegs", "TcpExtTCPTimeouts", "TcpExtTCPSpuriousRTOs", "TcpExtTCPLossUndo",
            "TcpExtTCPFullUndo", "TcpExtTCPPartialUndo", "TcpExtTCPDSACKUndo", "TcpExtTCPSpuriousRtxHostQueues")

# What is sent, how, and which of the counters of undoing count one (none: nothing can tell)
Plan = collections.namedtuple("Plan", "segments usec_ts dsack across_ms undo", defaults=(False, True, False, ""))
SPIKES = {
    "flight": Plan(4, undo="TCPSpuriousRTOs TCPLossUndo"),
    "flight_usec_ts": Plan(4, usec_ts=True, undo="TCPLossUndo"),
    "flight_no_dsack": Plan(4, dsack=False, undo="TCPSpuriousRTOs TCPLossUndo"),
    "one": Plan(1, undo="TCPDSACKUndo"),
    "one_usec_ts": Plan(1, usec_ts=True, undo="TCPLossUndo"),
    "one_no_dsack": Plan(1, dsack=False),
    "one_no_dsack_usec_ts": Plan(1, usec_ts=True, dsack=False, undo="TCPLossUndo"),
    "one_no_dsack_across_ms": Plan(1, dsack=False, across_ms=True, undo="TCPLossUndo"),
}
REORDERINGS = {
    "dsack": Plan(8, undo="TCPDSACKUndo"),
    "usec_ts": Plan(8, usec_ts=True, undo="TCPFullUndo"),
    "no_dsack": Plan(8, dsack=False),
    "no_dsack_usec_ts": Plan(8, usec_ts=True, dsack=False, undo="TCPFullUndo"),
}


def window(connection):
    """(cwnd, ssthresh) of a"""
    ssthresh, cwnd = struct.unpack_from("=II", connection.a.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 76)
    return cwnd, ssthresh


def wait_for_phase(us):
    """Until so long after the beginning of a millisecond of TCP's clock"""
    now = time.monotonic_ns() / 1000
    sleep_us((us - now) % MS)


def settings(lab, plan):
    lab.sysctl("a", tcp_rto_min=200, tcp_early_retrans=0)
    lab.sysctl("b", tcp_rto_min=200, tcp_dsack=int(plan.dsack))
    if plan.usec_ts:
        run("ip", "-n", "a", "route", "change", "10.0.0.0/24", "dev", "e0", "features", "tcp_usec_ts")


def check(lab, name, plan, connection, work, timeouts):
    """Do the work, and see what was undone: else the window stays reduced"""
    before, counted = window(connection), lab.nstat("a")
    wait_for_phase(900 if plan.across_ms else 100)
    work()
    connection.receive(plan.segments)
    after, now = window(connection), lab.nstat("a")
    grown = {key.removeprefix("TcpExt"): now[key] - counted[key] for key in COUNTERS}
    print(f"# {name:>31}: cwnd {before[0]} -> {after[0]}, ssthresh {before[1]} -> {after[1]}, " +
          ", ".join(f"{key} {value}" for key, value in grown.items() if value))
    within("segments sent again", grown.pop("TcpRetransSegs"), 1, 10)
    near("timeouts", grown.pop("TCPTimeouts"), timeouts, 0)
    assert {key for key, value in grown.items() if value} == set(plan.undo.split()), grown
    near("most of them", max(grown.values()), bool(plan.undo), 0)
    if plan.undo:
        within("cwnd", after[0], before[0], 2 * before[0])
        near("ssthresh", after[1], before[1], 0)
    else:
        within("ssthresh", after[1], 2, before[0])
    connection.exchange(10)


@case(*SPIKES)
def spike(lab, name):
    """For one flight, the round trip takes far longer"""
    plan = SPIKES[name]
    settings(lab, plan)
    # timeouts after 250, 750, 1750 and 3750 us
    for us, timeouts in (400, 1), (5000, 4):
        def work(us=us):
            lab.delay(us)
            c.send(plan.segments)
            sleep_us(2 * us)
            lab.delay(lab.rtt_us)

        with lab.connect() as c:
            check(lab, f"{name}, {us} us", plan, c, work, timeouts)


@case(*REORDERINGS)
def reordering(lab, name):
    """The first segment of a flight comes after the others, and so late that it is sent again"""
    plan = REORDERINGS[name]
    settings(lab, plan)
    run("ip", "-n", "b", "link", "add", "ifb0", "type", "ifb")
    run("ip", "-n", "b", "link", "set", "ifb0", "up")
    run("tc", "-n", "b", "qdisc", "add", "dev", "ifb0", "root", "netem", "delay", f"{LATER}us")
    run("tc", "-n", "b", "filter", "add", "dev", "e0", "ingress", "protocol", "ip", "u32",
        "match", "ip", "dsfield", hex(LATE), "0xfc", "action", "mirred", "egress", "redirect", "dev", "ifb0")

    def work():
        set_tos(c.a, LATE)
        c.send()
        set_tos(c.a, 0)
        c.send(plan.segments - 1)
        sleep_us(10 * MS)

    with lab.connect() as c:
        check(lab, name, plan, c, work, timeouts=0)


if __name__ == "__main__":
    main()
