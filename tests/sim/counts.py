#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched
"""What counts timeouts of a connection, and draws conclusions: an outage that is short for a kernel
without finetcp stays so with timeouts of 200 us."""

import errno
import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import (ADDRESS, IPPROTO_MPTCP, PORT, Connection, case, main, near, run,  # noqa: E402
                 sleep_us, within)
from peer import MSS, Peer, now_us  # noqa: E402

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
SO_MAX_PACING_RATE = 47
# Where in struct tcp_info, and how it is packed
COUNTERS = {"retransmits": (2, "=B"), "backoff": (4, "=B"), "rehash": (236, "=I")}
MS = 1000               # us


def settings(lab, **more):
    """A kernel without finetcp keeps its own"""
    for host in "ab":
        lab.sysctl(host, **more, **({"tcp_rto_min": 200} if FINETCP else {}))


def counter(s, name):
    where, how = COUNTERS[name]
    return struct.unpack_from(how, s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 248), where)[0]


def connect(lab, how=lambda s: s.connect(ADDRESS), prepare=lambda s: None):
    """A connection from a to b, whose sockets are prepared before"""
    with lab.on("b"), socket.create_server(ADDRESS) as listener:
        prepare(listener)
        with lab.on("a"):
            s = socket.socket()
        prepare(s)
        how(s)
        return Connection(s, listener.accept()[0])


def outage(connection, us):
    """a sends what does not arrive. Returns how often it did so again"""
    before = connection.retransmitted()
    connection.lose()
    connection.send()
    sleep_us(us)
    times = connection.retransmitted() - before
    connection.lose(False)
    return times


def check_outage(connection, us=10 * MS):
    """One in which only finetcp sends anything again"""
    within("retransmissions", outage(connection, us), *((2, 10) if FINETCP else (0, 0)))


@case(*COUNTERS)
def outage__tcp_info(lab, name):
    """Within 10 ms there is no timeout of the kernel's own to count"""
    settings(lab, tcp_early_retrans=0)
    with lab.connect() as c:
        check_outage(c)
        near(name, counter(c.a, name), 0, 0)
        c.receive()


@case(*COUNTERS)
def outage_of_a_second__tcp_info(lab, name):
    """Within a second there are two, after 200 and 600 ms"""
    settings(lab, tcp_early_retrans=0)
    with lab.connect() as c:
        outage(c, 1000 * MS)
        near(name, counter(c.a, name), 2, 0)


@case(*FAMILIES)
def outage__another_path(lab, family):
    """Within 10 ms no connection tries another path: flow label, hash and route stay"""
    settings(lab, tcp_early_retrans=0)
    with lab.connect(FAMILIES[family]) as c:
        before = lab.nstat("a")["TcpExtTcpTimeoutRehash"]
        check_outage(c)
        near("TcpTimeoutRehash", lab.nstat("a")["TcpExtTcpTimeoutRehash"], before, 0)
        c.receive()


@case
def outage__load_balancing(lab):
    """After 2 ms, PLB still leaves a path where each packet is marked; a timeout makes it wait a minute"""
    settings(lab, tcp_plb_enabled=1, tcp_ecn=1)
    lab.meet()

    def prepare(s):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"dctcp")

    with connect(lab, prepare=prepare) as c:
        c.exchange(30)
        check_outage(c, 2 * MS)
        c.receive()
        run("tc", "-n", "a", "qdisc", "replace", "dev", "e0", "root", "netem", "loss", "100%", "ecn")
        before = lab.nstat("a")["TcpExtTCPPLBRehash"]
        c.exchange(100)
        within("TCPPLBRehash", lab.nstat("a")["TcpExtTCPPLBRehash"] - before, 1, 100)


def fast_open(lab):
    """A connection whose first byte came with the SYN"""
    connection = connect(lab, lambda s: s.sendto(b"x", socket.MSG_FASTOPEN, ADDRESS))
    near("bytes that came with the SYN", len(connection.b.recv(2)), 1, 0)
    return connection


@case
def outage__fast_open(lab):
    """Within 2 ms no Fast Open connection makes out a black hole, and turns Fast Open off for an hour"""
    settings(lab, tcp_early_retrans=0)
    lab.sysctl("b", tcp_fastopen=0x602)     # for each listener, without cookie
    lab.sysctl("a", tcp_fastopen=5, tcp_fastopen_blackhole_timeout_sec=3600)
    lab.meet()
    with fast_open(lab) as c:
        c.exchange(30)
        check_outage(c, 2 * MS)
        c.receive()
    near("black holes", lab.nstat("a")["TcpExtTCPFastOpenBlackhole"], 0, 0)
    with fast_open(lab):
        near("connections that used it", lab.nstat("a")["TcpExtTCPFastOpenActive"], 2, 0)


@case
def outage__mptcp_address(lab):
    """An address that an MPTCP peer signals in an outage of 10 ms arrives later, and gets its subflow"""
    settings(lab)
    for host, n in ("a", 1), ("b", 2):
        run("ip", "-n", host, "addr", "add", f"10.0.1.{n}/24", "dev", "e0")
        run("ip", "netns", "exec", host, "ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    run("ip", "netns", "exec", "b", "ip", "mptcp", "endpoint", "add", "10.0.1.2", "dev", "e0", "signal")
    lab.meet()
    with lab.on("b"), socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as listener:
        listener.bind(("", PORT))
        listener.listen()
        with lab.on("a"), socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as s:
            s.connect(ADDRESS)
            # b signals it when it knows that the handshake is over.
            run("tc", "-n", "a", "qdisc", "add", "dev", "e0", "ingress")
            run("tc", "-n", "a", "filter", "add", "dev", "e0", "ingress", "protocol", "ip", "u32",
                "match", "ip", "protocol", "6", "0xff", "action", "drop")
            with listener.accept()[0]:
                s.send(b"x")
                sleep_us(10 * MS)
                within("addresses that were sent", lab.nstat("b")["MPTcpExtAddAddrTx"], 1, 10)
                near("addresses that came", lab.nstat("a")["MPTcpExtAddAddr"], 0, 0)
                run("tc", "-n", "a", "qdisc", "del", "dev", "e0", "ingress")
                time.sleep(3)
                near("addresses that came", lab.nstat("a")["MPTcpExtAddAddr"], 1, 0)
                near("subflows more", lab.nstat("b")["MPTcpExtMPJoinAckRx"], 1, 0)


@case
def user_timeout__window_taken_back(lab):
    """A peer takes its window back to 0, and TCP_USER_TIMEOUT nears: no burst of segments at the end"""
    settings(lab, tcp_early_retrans=0)
    with Peer(lab, 100, prepare=lambda s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000)) as peer:
        done = peer.exchange()
        # At the beginning of a millisecond of TCP's clock: the whole of it is left when the timer expires
        sleep_us((100 - now_us()) % MS)
        peer.write(b"x" * MSS)
        sent = peer.next(MS)
        near("the segment", peer.place(sent), done, 0)
        peer.send(done, window=0)
        segments = 1
        while now_us() < sent.at + 3000 * MS:
            segment = peer.next(1000 * MS)
            if segment and segment.data:
                segments += 1
                peer.send(done, window=0)
        within("segments", segments, 2, 9)
        near("SO_ERROR", peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ETIMEDOUT, 0)


@case
def pacing__longest_timeout(lab):
    """At 4 bytes a second, a retransmission waits no longer than the longest timeout, two minutes"""
    settings(lab, tcp_early_retrans=0)
    with lab.connect() as c:
        wire = lab.capture()
        c.a.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 4)
        c.lose()
        c.send()
        time.sleep(300)
        within("the first one after", wire.gaps()[0], 0, 125_000 * MS)


if __name__ == "__main__":
    main()
