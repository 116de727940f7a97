#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched
"""finetcp is loaded, and nothing is set where a connection lives: it does as on a kernel without."""

import os
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import (ADDRESS, TICK, Connection, case, main, near, run, set_tos, sleep_us,  # noqa: E402
                 within)

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
LATE = 0x40             # a type of service: what has it reaches b later
OTHERS = {"tcp_rto_min_us": 20}         # what another namespace has
OTHERS_WITH_FINETCP = {"tcp_rto_init": 20, "tcp_delack_min": 20}


def check_reordering(lab, late_us, flights=100):
    """The first of three segments comes last, on young connections with a round trip of 200 us: nothing is
    sent again for that"""
    lab.delay(200)
    run("ip", "-n", "b", "link", "add", "ifb0", "type", "ifb")
    run("ip", "-n", "b", "link", "set", "ifb0", "up")
    run("tc", "-n", "b", "qdisc", "add", "dev", "ifb0", "root", "netem", "delay", f"{late_us}us")
    run("tc", "-n", "b", "filter", "add", "dev", "e0", "ingress", "protocol", "ip", "u32",
        "match", "ip", "dsfield", hex(LATE), "0xfc", "action", "mirred", "egress", "redirect", "dev", "ifb0")
    lab.meet()
    before = lab.nstat("a")
    for _ in range(flights):
        with lab.connect(exchanges=20) as c:
            set_tos(c.a, LATE)
            c.send()
            set_tos(c.a, 0)
            c.send(2)
            sleep_us(20_000)
            c.receive(3)
    after = lab.nstat("a")
    for name in "TcpRetransSegs", "TcpExtTCPDSACKRecv", "TcpExtTCPSackRecovery":
        near(name, after[name] - before[name], 0, 0)
    within("TCPSACKReorder", after["TcpExtTCPSACKReorder"] - before["TcpExtTCPSACKReorder"], flights, 10 * flights)


@case(80, 150)
def reordering__us_late(lab, late_us):
    """A segment that is late by less than two milliseconds is not taken for lost"""
    check_reordering(lab, late_us)


def check_fin(lab, connection):
    """a closes: its FIN is acknowledged at the next tick"""
    wire = lab.capture(empty=True, incoming=True)
    sent = time.time() * 10**6
    connection.a.shutdown(socket.SHUT_WR)
    sleep_us(100_000)
    ((acknowledged, _, _),) = wire.segments()
    within("microseconds until its acknowledgement", acknowledged - sent, 0, 2 * TICK + lab.rtt_us)


@case
def fin__first_segment(lab):
    """A FIN right after the handshake"""
    lab.meet()
    (connection,) = lab.connections(1, ADDRESS)
    with connection as c:
        check_fin(lab, c)


@case
def round_trip__by_time_stamps(lab):
    """A segment that was sent again is a sample of a millisecond, as time stamps have it: of 200 us the estimate
    becomes 300. Where nothing is set that is the kernel's, however coarse"""
    lab.delay(200)
    lab.sysctl("a", tcp_early_retrans=0)
    lab.meet()
    with lab.connect(exchanges=50) as c:
        before = c.info()[1]
        near("the round trip before", before, 200, 5)
        c.lose_one(lab.capture(), 150_000)
        c.b.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        c.recover()
        sleep_us(100_000)
        within("more after that, in us", c.info()[1] - before, (TICK - before) / 8 - 5, (2 * TICK - before) / 8 + 5)


@case
def fin__second_later(lab):
    """A FIN a second after the handshake, and nothing between"""
    lab.meet()
    (connection,) = lab.connections(1, ADDRESS)
    with connection as c:
        time.sleep(1)
        check_fin(lab, c)


@case
def fin__after_answers(lab):
    """A FIN without data of somebody who has only received"""
    lab.meet()
    (connection,) = lab.connections(1, ADDRESS)
    with connection as c:
        for _ in range(5):
            c.b.sendall(b"y")
            near("bytes that came", len(c.a.recv(2)), 1, 0)
            sleep_us(100_000)
        check_fin(lab, c)


@case
def fin__fast_open(lab):
    """A FIN after a handshake that had data with it"""
    lab.sysctl("b", tcp_fastopen=0x602)     # for each listener, without cookie
    lab.sysctl("a", tcp_fastopen=5)
    lab.meet()
    with lab.on("b"), socket.create_server(ADDRESS) as listener:
        with lab.on("a"):
            s = socket.socket()
        s.sendto(b"x", socket.MSG_FASTOPEN, ADDRESS)
        with Connection(s, listener.accept()[0]) as c:
            near("bytes that came with the SYN", len(c.b.recv(2)), 1, 0)
            sleep_us(100_000)
            check_fin(lab, c)


class Other:
    """Another namespace, with the shortest timeouts, and a connection that uses them"""

    def __init__(self, lab):
        self.lab, self.sockets = lab, []

    def __enter__(self):
        run("ip", "netns", "add", "c")
        run("ip", "-n", "c", "link", "set", "lo", "up")
        self.lab.sysctl("c", **(OTHERS | OTHERS_WITH_FINETCP if FINETCP else OTHERS))
        with self.lab.on("c"):
            self.sockets = [socket.create_server(("127.0.0.1", 7000))]
            self.sockets += [socket.create_connection(("127.0.0.1", 7000))]
        self.sockets += [self.sockets[0].accept()[0]]
        self.sockets[1].send(b"x")

    def __exit__(self, *_):
        for s in self.sockets:
            s.close()
        run("ip", "netns", "del", "c")


@case
def another_namespace__reordering(lab):
    """A segment that is late is not taken for lost, however short the timeouts of other namespaces are"""
    with Other(lab):
        check_reordering(lab, 80)


@case
def another_namespace__timeout(lab):
    """A retransmission waits for 200 ms, however short the timeouts of other namespaces are"""
    lab.sysctl("a", tcp_early_retrans=0)
    wire = lab.capture()
    with Other(lab), lab.connect() as c:
        within("tcpi_rto", c.info()[0], 200_000, 200_000 + 2 * TICK)
        gaps = c.lose_one(wire, 500_000)
        near("retransmissions", len(gaps), 1, 0)
        within("the first one after", gaps[0], 200_000, 200_000 * 9 / 8 + 2 * TICK)


@case
def another_namespace__syn(lab):
    """A SYN waits for a second, however short the timeouts of other namespaces are"""
    lab.meet()
    wire = lab.capture(empty=True)
    with Other(lab), lab.connecting(lost=True):
        sleep_us(1_500_000)
        gaps = wire.gaps()
    near("retransmissions", len(gaps), 1, 0)
    within("the first one after", gaps[0], 1_000_000 - 5, 1_000_000 * 9 / 8)


@case
def another_namespace__delayed_ack(lab):
    """An ACK is delayed by 40 ms, however short the timeouts of other namespaces are"""
    with Other(lab), lab.connect() as c:
        within("acknowledgement", lab.ack_delay(c), 40_000, 40_000 + 4 * TICK)


if __name__ == "__main__":
    main()
