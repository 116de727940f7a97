#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""Opening a connection when segments of the handshake are lost."""

import errno
import os
import select
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import (ADDRESS, LOST, case, insmod, main, near, rmmod, run, set_tos,  # noqa: E402
                 sleep_us, within)


def check(what, us, want):
    """To the microsecond up to a second; beyond, the timer wheel may round up"""
    within(what, us, want - 5, want + 5 if want <= 1_000_000 else want * 9 / 8 + 2000)


def listening(lab):
    with lab.on("b"):
        return socket.create_server(ADDRESS)


@case(50, 1500, 5000, 1_000_000)
def syn(lab, us):
    """Each wait is twice the one before, from tcp_rto_init on, until the kernel's own second is over"""
    lab.sysctl("a", tcp_rto_init=us, tcp_syn_linear_timeouts=0)
    lab.meet()
    wire = lab.capture(empty=True)
    with lab.connecting(lost=True):
        sleep_us(us * 20)
        gaps = wire.gaps()
    near("retransmissions", len(gaps), 4, 0)
    for n, gap in enumerate(gaps):
        check(f"SYN {n + 2}", gap, us << n)


@case(5000, 1_000_000)
def syn__linear_timeouts(lab, us):
    """tcp_syn_linear_timeouts keeps its meaning: so many of the kernel's own seconds are not doubled"""
    lab.sysctl("a", tcp_rto_init=us, tcp_syn_linear_timeouts=3)
    lab.meet()
    wire = lab.capture(empty=True)
    with lab.connecting(lost=True):
        sleep_us(8_000_000)
        gaps = wire.gaps()
    if us < 1_000_000:
        early = [gap for gap in gaps if gap < 900_000]
        for n, gap in enumerate(early[:-1]):
            near(f"SYN {n + 2}", gap, us << n)
        near("the kernel's own second", sum(early), 1_000_000)
        gaps = gaps[len(early):]
    else:
        near("the kernel's own second", gaps.pop(0), 1_000_000)
    for n, want in enumerate([1_000_000] * 3 + [2_000_000]):
        check(f"second {n + 2}", gaps[n], want)


def check_given_up(lab, meanwhile=None):
    """A SYN that nobody answers, with tcp_syn_retries=2: by default, that takes 7 s. Something may be done
    after one"""
    lab.sysctl("a", tcp_syn_retries=2, tcp_syn_linear_timeouts=0)
    lab.meet()
    start = time.monotonic()
    with lab.connecting(lost=True) as s:
        if meanwhile:
            sleep_us(1_000_000)
            meanwhile()
        poll = select.poll()
        poll.register(s, select.POLLERR)
        poll.poll(1000_000)
        near("SO_ERROR", s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ETIMEDOUT, 0)
    within("seconds until then", time.monotonic() - start, 7, 17)


@case(1000, 5000, 1_000_000)
def syn__gives_up_no_sooner(lab, us):
    """tcp_syn_retries counts the time that so many retries take by default"""
    lab.sysctl("a", tcp_rto_init=us)
    check_given_up(lab)


@case
def syn__gives_up_no_sooner__backed_off_slowly(lab):
    """tcp_backoff_max and tcp_linear_timeouts are not for SYNs, or there would not be enough of them"""
    lab.sysctl("a", tcp_rto_init=5000, tcp_backoff_max=5000, tcp_linear_timeouts=6)
    check_given_up(lab)


@case("raised", "lowered")
def syn__gives_up_no_sooner__tcp_rto_init_is(lab, what):
    """The retries that there were till then count for what they were"""
    us, then_us = {"raised": (5000, 1_000_000), "lowered": (1_000_000, 5000)}[what]
    lab.sysctl("a", tcp_rto_init=us)
    check_given_up(lab, lambda: lab.sysctl("a", tcp_rto_init=then_us))


@case
def syn__gives_up_no_sooner__rmmod(lab):
    lab.sysctl("a", tcp_rto_init=5000)
    try:
        check_given_up(lab, rmmod)
    finally:
        insmod()


def check_syn_acks(wire, us, most=200_000):
    """Each wait is twice the one before as long as it is less than that; and the kernel's own come after
    a second, and after two more, whatever came before. The timer wheel may round these up"""
    sleep_us(3_500_000)
    times = [t for t, _, _ in wire.segments()]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    early = 0
    while us << early < most and us * (2**(early + 1) - 1) + us <= 1_000_000:
        near(f"SYN-ACK {early + 2}", gaps[early], us << early)
        early += 1
    near("retransmissions", len(gaps), early + 2, 0)
    for n, want in enumerate([1_000_000, 3_000_000]):
        within(f"the kernel's own {n + 1}", times[early + n + 1] - times[0], want - 2000, want * 9 / 8 + 4000)


@case(50, 1500, 5000, 30_000, 1_000_000)
def syn_ack(lab, us):
    """From the listener's queue"""
    lab.sysctl("b", tcp_rto_init=us)
    lab.meet()
    wire = lab.capture(empty=True, incoming=True)
    with listening(lab), lab.connecting(lost=False) as s:
        set_tos(s, LOST)            # the answer to the SYN-ACK
        check_syn_acks(wire, us)


@case
def syn_ack__then_established(lab):
    """The first one that is answered ends it"""
    lab.sysctl("b", tcp_rto_init=1500)
    lab.sysctl("a", tcp_invalid_ratelimit=0)    # which would leave repeated SYN-ACKs without an answer
    lab.meet()
    wire = lab.capture(empty=True, incoming=True)
    with listening(lab) as listener, lab.connecting(lost=False) as s:
        set_tos(s, LOST)
        sleep_us(3000)
        set_tos(s, 0)
        with listener.accept()[0]:
            sleep_us(100_000)
            near("SYN-ACKs", len(wire.segments()), 3, 0)


@case
def syn_ack__load_and_unload_while_it_waits(lab):
    """What is early ends when the module leaves, and does not begin again"""
    lab.sysctl("b", tcp_rto_init=20_000)
    lab.meet()
    wire = lab.capture(empty=True, incoming=True)
    with listening(lab), lab.connecting(lost=False) as s:
        set_tos(s, LOST)
        sleep_us(30_000)
        rmmod()
        try:
            sleep_us(60_000)
        finally:
            insmod()
        sleep_us(1_500_000)
        gaps = wire.gaps()
    near("SYN-ACK 2", gaps[0], 20_000)      # the next one would come after 40 ms more: the module is out
    near("retransmissions", len(gaps), 2, 0)
    within("the kernel's own", sum(gaps), 998_000, 1_000_000 * 9 / 8 + 4000)


@case(5000, 1_000_000)
def syn_ack__deferred(lab, us):
    """TCP_DEFER_ACCEPT waits for data as long as it was told to, also when the ACK of the SYN-ACK comes
    after that has timed out a few times"""
    lab.sysctl("b", tcp_rto_init=us)
    lab.meet()
    run("tc", "-n", "a", "qdisc", "replace", "dev", "e0", "root", "netem", "delay", "100ms")
    with listening(lab) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 3)
        start = time.monotonic()
        with lab.connecting(lost=False), listener.accept()[0]:
            within("seconds until accept()", time.monotonic() - start, 3, 6.2)


@case
def syn_ack__deferred__rmmod(lab):
    """A client that says nothing for a while is not forgotten, however often his SYN-ACK has timed out"""
    lab.sysctl("b", tcp_rto_init=5000)
    lab.meet()
    with listening(lab) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
        with lab.connecting(lost=False) as s:
            sleep_us(3_000_000)
            rmmod()
            try:
                sleep_us(3_000_000)
                s.send(b"x")
                listener.settimeout(1)
                with listener.accept()[0] as accepted:
                    near("bytes", len(accepted.recv(2)), 1, 0)
            finally:
                insmod()


def fast_open(lab, **settings):
    """A listener that takes data with the SYN, and a client that sent some, and now is not heard"""
    lab.sysctl("b", tcp_fastopen=0x602, **settings)     # for each listener, without cookie
    lab.sysctl("a", tcp_fastopen=5)
    lab.meet()
    listener = listening(lab)
    with lab.on("a"):
        s = socket.socket()
    s.setblocking(False)
    try:
        s.sendto(b"x", socket.MSG_FASTOPEN, ADDRESS)
    except BlockingIOError:
        pass
    set_tos(s, LOST)
    return listener, s


@case(50, 1500, 5000)
def fast_open__syn_ack(lab, us):
    """The SYN-ACK of a connection that has data already"""
    lab.meet()
    wire = lab.capture(empty=True, incoming=True)
    listener, s = fast_open(lab, tcp_rto_init=us)
    with listener, s, listener.accept()[0]:
        wire.segments()
        check_syn_acks(wire, us, 1_000_000)


@case(5000, 1_000_000)
def fast_open__gives_up_no_sooner(lab, us):
    listener, s = fast_open(lab, tcp_rto_init=us, tcp_synack_retries=2)
    start = time.monotonic()
    with listener, s, listener.accept()[0] as child:
        poll = select.poll()
        poll.register(child, select.POLLERR)
        poll.poll(1000_000)
    within("seconds until then", time.monotonic() - start, 15, 33)


@case(5000, 1_000_000)
def syn__no_sample(lab, us):
    """RFC 6298, 5.7: a handshake that gives no sample makes the timeout three times as long"""
    lab.sysctl("a", tcp_rto_init=us, tcp_timestamps=0, tcp_early_retrans=0)
    lab.meet()
    with listening(lab) as listener, lab.connecting(lost=True) as s:
        sleep_us(us / 2)
        set_tos(s, 0)
        poll = select.poll()
        poll.register(s, select.POLLOUT)
        poll.poll(1000_000)
        with listener.accept()[0]:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_tos(s, LOST)
            wire = lab.capture()
            s.send(b"x")
            sleep_us(us * 4)
            gap = wire.gaps()[0]
    check("retransmission", gap, us * 3)


if __name__ == "__main__":
    main()
