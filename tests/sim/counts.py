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
from lab import (ADDRESS, IPPROTO_MPTCP, LOST, PORT, TICK, Connection, case, main, near,  # noqa: E402
                 run, set_tos, sleep_us, within)
from peer import ACK, MSS, RST, SYN, Peer, now_us  # noqa: E402
from peer import ADDRESS as PEER  # noqa: E402

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
SO_MAX_PACING_RATE = 47
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE = 19, 20, 2
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


@case
def outage__loss_probe_after_backoff(lab):
    """As long as no sample ends a backoff, a loss probe is all that comes before a timeout of seconds. So it comes
    when the kernel's does, after 200 ms, and not into the same outage as the segment"""
    settings(lab, tcp_timestamps=0)
    with lab.connect() as c:
        outage(c, 2000 * MS)
        c.receive()
        sleep_us(1000 * MS)
        outage(c, 20 * MS)
        started = now_us()
        c.receive()
        within("us until it arrives", now_us() - started, 150 * MS, 250 * MS)


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


def window(s):
    """(ssthresh, cwnd)"""
    return struct.unpack_from("=II", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 76)


@case
def pause__window(lab):
    """After a pause of 150 ms the window is what it was, after a second the initial one"""
    settings(lab)
    with lab.connect() as c:
        for _ in range(20):
            c.send(100)
            c.receive(100)
            sleep_us(lab.rtt_us)
        before = window(c.a)[1]
        within("cwnd", before, 20, 1000)
        for us, cwnd in (150 * MS, before), (2000 * MS, 10):
            sleep_us(us)
            c.send()
            near(f"cwnd after a pause of {us} us", window(c.a)[1], cwnd, 0)
            c.receive()


@case
def own_queue__window(lab):
    """A segment that waits in this host for 5 ms is not lost: nothing is sent again, and the window stays"""
    settings(lab, tcp_early_retrans=0)
    with lab.connect() as c:
        before, again = window(c.a), c.retransmitted()
        run("tc", "-n", "a", "qdisc", "replace", "dev", "e0", "root", "netem", "delay", "5ms")
        c.send()
        sleep_us(4 * MS)
        near("retransmissions", c.retransmitted(), again, 0)
        near("ssthresh", window(c.a)[0], before[0], 0)
        near("cwnd", window(c.a)[1], before[1], 0)
        c.receive()


@case
def thin_stream__after_the_first_timeout(lab):
    """A thin stream's timeouts are not doubled: from the kernel's own first one on, each takes 200 ms"""
    settings(lab, tcp_early_retrans=0, tcp_thin_linear_timeouts=1,
             **({"tcp_linear_timeouts": 6, "tcp_backoff_max": 1000} if FINETCP else {}))
    wire = lab.capture()
    with lab.connect() as c:
        gaps = c.lose_one(wire, 1300 * MS)
        passed = 0
        while passed < 199 * MS:
            passed += gaps.pop(0)
        within("the kernel's own first timeout", passed, 200 * MS, 225 * MS + 2 * TICK)
        within("timeouts after that", len(gaps), 4, 5)
        for n, gap in enumerate(gaps):
            within(f"timeout {n + 2}", gap, 200 * MS, 225 * MS + 2 * TICK)


@case
def repair__no_sample(lab):
    """A connection that is restored knows no round trip. What it has in flight is sent after three seconds"""
    settings(lab, tcp_early_retrans=0, **({"tcp_rto_init": 200} if FINETCP else {}))
    lab.meet()
    wire = lab.capture()
    with lab.on("a"):
        s = socket.socket()
    with s:
        set_tos(s, LOST)
        s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        s.bind(("10.0.0.1", 6000))
        s.connect(ADDRESS)
        s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
        sent = time.time() * 10**6
        s.send(b"x")
        sleep_us(4000 * MS)
        segments = wire.segments()
        near("segments", len(segments), 1, 0)
        within("the first one after", segments[0][0] - sent, 3000 * MS, 3000 * MS * 9 / 8)


@case
def syn__answered_by_another_connection(lab):
    """A SYN that is answered with an ACK of something else is sent again after two ticks, and so only once"""
    settings(lab, **({"tcp_rto_init": 500} if FINETCP else {}))
    with Peer(lab, 100) as peer, lab.on("a"), socket.socket() as s:
        s.setblocking(False)
        s.connect_ex((PEER, PORT))
        syns, resets = [], 0
        until = now_us() + 500 * MS
        while now_us() < until:
            segment = peer.next(until - now_us())
            if not segment or segment.to != PORT:
                continue
            resets += segment.flags == RST
            if segment.flags & SYN:
                syns.append(segment.at)
                peer.raw(PORT, segment.port, seq=1, ack=segment.seq + 12_345, flags=ACK)
        near("SYNs", len(syns), 2, 0)
        within("the second one after", syns[1] - syns[0], 2 * TICK - 5, 4 * TICK)
        near("resets", resets, 2, 0)


@case(0, 20)
def outage__mptcp_subflow__after_segments(lab, segments):
    """Within 10 ms, no subflow is given up for its backup, whether it was silent before or just at work"""
    settings(lab)
    for host, n in ("a", 1), ("b", 2):
        run("ip", "-n", host, "addr", "add", f"10.0.1.{n}/24", "dev", "e0")
        run("ip", "netns", "exec", host, "ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    run("ip", "netns", "exec", "a", "ip", "mptcp", "endpoint", "add", "10.0.1.1", "dev", "e0", "subflow", "backup")
    lab.meet()
    lab.delay(700)
    with lab.on("b"), socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as listener:
        listener.bind(ADDRESS)
        listener.listen()
        with lab.on("a"):
            s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        s.connect(ADDRESS)
        with Connection(s, listener.accept()[0]) as c:
            c.exchange(50)
            near("subflows more", lab.nstat("b")["MPTcpExtMPJoinAckRx"], 1, 0)
            sleep_us(300 * MS)
            for _ in range(segments):
                c.send()
                sleep_us(200)
            run("tc", "-n", "b", "filter", "add", "dev", "e0", "ingress", "prio", "1", "protocol", "ip", "u32",
                "match", "ip", "src", "10.0.0.1/32", "match", "ip", "protocol", "6", "0xff", "action", "drop")
            c.send()
            sleep_us(10 * MS)
            near("MPTcpExtSubflowStale", lab.nstat("a")["MPTcpExtSubflowStale"], 0, 0)
            run("tc", "-n", "b", "filter", "del", "dev", "e0", "ingress", "prio", "1")
            c.receive(segments + 1)


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
