#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched
"""When TCP gives up: with timeouts of 200 us at the same time as a kernel without finetcp."""

import os
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import ADDRESS, LOST, PORT, case, main, near, set_tos, sleep_us, within  # noqa: E402

from bpf import TIMEOUT_INIT, attached, reply  # noqa: E402

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
FAST = {"tcp_rto_min": 200, "tcp_rto_init": 200}
INCAST = {"tcp_linear_timeouts": 3, "tcp_backoff_max": 1000}
SYN_RECV = "03"         # in /proc/net/tcp
EARLY = 20 if FINETCP else 0    # SYNs that fit into the first second, with timeouts of 200 us that are doubled
WHEEL = 4.096           # s: the timer wheel rounds waits of 32 s and more to that
HOST_UNREACHABLE = 3, 1


def settings(lab, **more):
    """A kernel without finetcp keeps its own"""
    for host in "ab":
        lab.sysctl(host, tcp_early_retrans=0, **(FAST | more if FINETCP else {}))


def wait_for_the_wheel():
    """To begin where its rounding is the same in each run"""
    time.sleep(WHEEL - time.monotonic() % WHEEL + 1)


def check(what, started, seconds):
    """2 % more or less"""
    within(f"seconds until {what}", time.monotonic() - started, 0.98 * seconds, 1.02 * seconds)


def wait_for_error(s):
    poll = select.poll()
    poll.register(s, select.POLLERR)
    poll.poll(10_000_000)
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "there is no error"


def check_connect(lab, early=EARLY):
    lab.meet()
    wire = lab.capture(empty=True)
    wait_for_the_wheel()
    started = time.monotonic()
    with lab.connecting(lost=True) as s:
        wait_for_error(s)
    check("connect() fails", started, 135.2)
    within("SYNs", len(wire.segments()), 1 + 6 + 4, 1 + 6 + 4 + early)


def has_request(lab):
    return any(row[3] == SYN_RECV for row in lab.sockets("b").values())


def check_request(lab, seconds, syn_retries=0, early=EARLY):
    """A listener's request whose SYN-ACKs are not answered"""
    lab.sysctl("a", tcp_retries2=255)   # who asked has to stay, or a reset ends it
    lab.meet()
    with lab.on("b"):
        listener = socket.create_server(ADDRESS)
    if syn_retries:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, syn_retries)
    wire = lab.capture(empty=True, incoming=True)
    wait_for_the_wheel()
    started = time.monotonic()
    with listener, lab.connecting(lost=False) as s:
        set_tos(s, LOST)
        sleep_us(10_000)
        assert has_request(lab), "there is no request"
        while has_request(lab) and time.monotonic() - started < 2 * seconds:
            time.sleep(seconds / 500)
        check("the request ends", started, seconds)
        times = 1 + (syn_retries or 5)
        within("SYN-ACKs", len(wire.segments()), times, times + early)


@case
def connect(lab):
    """A SYN that nobody answers fails after the default retries"""
    settings(lab)
    check_connect(lab)


@case
def connect__bpf(lab):
    """A program that says one second has it its way: there are no more retries than by default"""
    settings(lab)
    with attached(TIMEOUT_INIT, reply(1000)):
        check_connect(lab, early=0)


@case
def request(lab):
    """A SYN-ACK that nobody answers is forgotten after the default retries"""
    settings(lab)
    check_request(lab, 64)


@case
def request__bpf(lab):
    """A program that says one second has it its way: there are no more SYN-ACKs than by default"""
    settings(lab)
    with attached(TIMEOUT_INIT, reply(1000)):
        check_request(lab, 64, early=0)


@case
def request__many_retries(lab):
    """TCP_SYNCNT of 120 does not overflow any counter: the request ends. Stock Linux shifts a timeout by
    more than 63 bits then, and starts with a second again"""
    settings(lab)
    check_request(lab, 14_146 if FINETCP else 13_050, syn_retries=120)


def check_data(lab, seconds, prepare=lambda s: None):
    settings(lab)
    with lab.connect() as c:
        prepare(c.a)
        c.lose()
        wait_for_the_wheel()
        started = time.monotonic()
        c.send()
        wait_for_error(c.a)
        check("the connection fails", started, seconds)


@case
def data__retries2(lab):
    """Data that nobody acknowledges ends the connection after the default retries"""
    check_data(lab, 950)


@case
def data__user_timeout(lab):
    """TCP_USER_TIMEOUT of 2 s ends it after that, counted from the kernel's own first retransmission"""
    check_data(lab, 2.22, lambda s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000))


@case
def data__user_timeout__after_a_loss_probe(lab):
    """The loss probe begins the timeout: that of the kernel, two round trips after the data, and not one that a
    short timeout makes come sooner"""
    rtt, user = 80_000, 300_000
    settings(lab)
    lab.sysctl("a", tcp_early_retrans=3)
    lab.delay(rtt)
    with lab.connect() as c:
        c.a.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user // 1000)
        c.exchange(10)
        c.lose()
        started = time.monotonic()
        c.a.send(bytes(4000))
        wait_for_error(c.a)
        probe, timeout = 2 * rtt, rtt + 200_000
        within("us until the connection fails", (time.monotonic() - started) * 1e6,
               probe + timeout + user, probe + timeout + user + 40_000)


def say_unreachable(lab, port, sequence):
    """b's host says of a segment of a's that it cannot be delivered"""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0,
                     socket.inet_aton("10.0.0.1"), socket.inet_aton(ADDRESS[0]))
    tcp = struct.pack("!HHI", port, PORT, sequence)

    def message(checksum):
        return struct.pack("!BBHI", *HOST_UNREACHABLE, checksum, 0) + ip + tcp

    words = sum(struct.unpack("!18H", message(0)))
    words = (words & 0xffff) + (words >> 16)
    with lab.on("b"), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.sendto(message(~(words + (words >> 16)) & 0xffff), ("10.0.0.1", 0))


@case("silence", "silence_incast", "unreachable", "unreachable_incast")
def orphan(lab, what):
    """A closed socket sends what nobody acknowledges for the default time, whatever ICMP says of the path"""
    settings(lab, **(INCAST if what.endswith("incast") else {}))
    c = lab.connect()
    wire = lab.capture()
    port = c.a.getsockname()[1]
    c.lose()
    wait_for_the_wheel()
    started = time.monotonic()
    c.send()
    c.a.close()
    c.b.close()
    sleep_us(300_000)
    if what.startswith("unreachable"):
        say_unreachable(lab, port, wire.segments()[0][1])
        sleep_us(1000)
        near("messages that came", lab.nstat("a")["IcmpInDestUnreachs"], 1, 0)
    while port in lab.sockets("a"):
        sleep_us(200_000)
    check("the socket is gone", started, 106.5)


if __name__ == "__main__":
    main()
