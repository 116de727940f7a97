#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched
"""Handshakes that take longer than tcp_rto_init: a SYN or SYN-ACK that is sent again for that alone
has no further consequence."""

import os
import select
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import (ADDRESS, IPPROTO_MPTCP, LOST, case, main, near, set_tos, sleep_us,  # noqa: E402
                 within)

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
SOL_MPTCP, MPTCP_INFO = 284, 1
TCP_INFO_ECN, ECN_MODE_ACCECN, ACCECN_FAIL_MODES = 276, 2, 0xf0    # where in struct tcp_info; values; bits
# Where in struct tcp_info, and how it is packed
COUNTERS = {"retrans": (36, "=I"), "total_retrans": (100, "=I"), "total_rto": (240, "=H"),
            "total_rto_recoveries": (242, "=H"), "total_rto_time": (244, "=I")}
SLOW = {"17_ms": (5000, 17_000), "700_us": (200, 700)}      # tcp_rto_init and round trip in us
RTT = 50                # us
MS = 1000               # us


def settings(lab, rto_init, **more):
    """A kernel without finetcp waits a second"""
    for host in "ab":
        lab.sysctl(host, **more, **({"tcp_rto_init": rto_init} if FINETCP else {}))


def tcp_info(s):
    return s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 280)


def check_mptcp(lab):
    """A connection is one of MPTCP's, if both ends ask for that"""
    (connection,) = lab.connections(1, ADDRESS, protocol=IPPROTO_MPTCP)
    with connection as c:
        c.exchange()
        try:
            c.a.getsockopt(SOL_MPTCP, MPTCP_INFO, 64)
        except OSError as error:
            raise AssertionError(f"it is TCP: {error}") from error


@case(*SLOW)
def mptcp(lab, name):
    """MPTCP is used all the same"""
    rto_init, rtt = SLOW[name]
    settings(lab, rto_init)
    lab.meet()
    lab.delay(rtt)
    check_mptcp(lab)


@case(*SLOW)
def mptcp__next_connection(lab, name):
    """MPTCP is not off for the connections to come"""
    rto_init, rtt = SLOW[name]
    settings(lab, rto_init)
    lab.meet()
    lab.delay(rtt)
    lab.connections(1, ADDRESS, protocol=IPPROTO_MPTCP)[0].close()
    near("MPTCP's black holes", lab.nstat("a")["MPTcpExtBlackhole"], 0, 0)
    lab.delay(RTT)
    check_mptcp(lab)


@case(*COUNTERS)
def counters__client(lab, name):
    """tcp_info counts no SYN as a retransmission that was only early"""
    check_counter(lab, name, "a")


@case(*COUNTERS)
def counters__server(lab, name):
    """tcp_info counts no SYN-ACK as a retransmission that was only early"""
    check_counter(lab, name, "b")


def check_counter(lab, name, host):
    where, how = COUNTERS[name]
    settings(lab, 5000)
    lab.meet()
    lab.delay(20 * MS)
    (connection,) = lab.connections(1, ADDRESS)
    with connection as c:
        c.exchange()
        near(name, struct.unpack_from(how, tcp_info(getattr(c, host)), where)[0], 0, 0)


@case("a", "b")
def accecn(lab, host):
    """Accurate ECN is agreed upon, and neither end finds fault with it"""
    settings(lab, 5000, tcp_ecn=3)
    lab.meet()
    lab.delay(20 * MS)
    (connection,) = lab.connections(1, ADDRESS)
    with connection as c:
        c.exchange()
        flags = tcp_info(getattr(c, host))[TCP_INFO_ECN]
        near("tcpi_ecn_mode", flags & 3, ECN_MODE_ACCECN, 0)
        near("tcpi_accecn_fail_mode", flags & ACCECN_FAIL_MODES, 0, 0)


@case(0, 1)
def first_window__time_stamps(lab, time_stamps):
    """The first window is the whole initial one: ten segments"""
    settings(lab, 5000, tcp_timestamps=time_stamps)
    lab.meet()
    lab.delay(20 * MS)
    (connection,) = lab.connections(1, ADDRESS)
    with connection as c:
        wire = lab.capture()
        c.a.sendall(bytes(30_000))
        sleep_us(15 * MS)
        sent = {number: length for _, number, length in wire.segments()}
        near("bytes in the first round trip", sum(sent.values()), 10 * (1448 if time_stamps else 1460), 0)


@case
def first_ack__held_back(lab):
    """A client that holds its first ACK back gets one SYN-ACK, and not another meanwhile"""
    settings(lab, 5000)
    lab.meet()
    with lab.on("b"):
        listener = socket.create_server(ADDRESS)
    with lab.on("a"):
        s = socket.socket()
    with listener, s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        wire = lab.capture(empty=True, incoming=True)
        s.connect(ADDRESS)
        sleep_us(150 * MS)
        near("segments that came from b", len(wire.segments()), 1, 0)
        s.send(b"x")
        with listener.accept()[0] as accepted:
            near("bytes that arrived", len(accepted.recv(2)), 1, 0)


@case
def no_sample__three_times(lab):
    """Without a sample from the handshake, data waits for three initial timeouts (RFC 6298, 5.7)"""
    settings(lab, 200, tcp_timestamps=0, tcp_early_retrans=0, **({"tcp_rto_min": 200} if FINETCP else {}))
    rto_init = 200 if FINETCP else 1000 * MS
    lab.meet()
    with lab.on("b"):
        listener = socket.create_server(ADDRESS)
    with listener, lab.connecting(lost=True) as s:
        sleep_us(rto_init / 2)
        set_tos(s, 0)
        poll = select.poll()
        poll.register(s, select.POLLOUT)
        poll.poll(10_000)
        with listener.accept()[0]:
            set_tos(s, LOST)
            wire = lab.capture()
            s.send(b"x")
            sleep_us(4 * rto_init)
            first = wire.gaps()[0]
    # To the microsecond, or as the timer wheel rounds up
    want = 3 * rto_init
    within("the first retransmission after", first, want - 5, want + 5 if FINETCP else want * 9 / 8)


if __name__ == "__main__":
    main()
