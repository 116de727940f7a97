#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""Small queues: how much of a socket stands in qdisc and device, and does it
always go on?"""

import contextlib
import mmap
import os
import random
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import IPPROTO_MPTCP, Bulk, case, insmod, main, rmmod, run, sleep_us, within  # noqa: E402

KERNELS = 4 << 20       # the kernel's tcp_limit_output_bytes
OVERHEAD = 2000         # bytes that a segment takes more than its payload, at most

# Linux's, which Python does not know
SO_MAX_PACING_RATE, SO_ZEROCOPY, MSG_ZEROCOPY = 47, 60, 0x4000000
TCP_ULP, TCP_TX_DELAY = 31, 37
SOL_TLS, TLS_TX, TLS_RX = 282, 1, 2
TLS_1_2, AES_GCM_128 = 0x0303, 51


def looks(lab, bulk, count=100):
    """The bytes (truesize) in qdisc and device, at random times"""
    found = []
    for _ in range(count):
        sleep_us(random.expovariate(1 / 1000))
        found.append(bulk.queued())
    return found


def check_moves(bulk, mbit, us=400_000, tolerance=0.03):
    """It moves what goes through the device, headers not counted"""
    before = bulk.acked()
    sleep_us(us)
    payload = mbit * 1448 / (1448 + 66)
    within("Mbit/s", (bulk.acked() - before) * 8 / us, payload * (1 - tolerance), payload * (1 + tolerance))


@case(20000, 40000, 131072)
def limit(lab, size):
    """So many bytes at most, two segments of a third of that, and the device is busy"""
    lab.slow(100)
    lab.sysctl("a", tcp_limit_output_bytes=size)
    wire = lab.capture()
    with Bulk(lab) as bulk:
        sleep_us(300_000)
        wire.segments()
        found = looks(lab, bulk)
        within("bytes in the queue, at most", max(found), 0.6 * size, size)
        lengths = [length for _, _, length in wire.segments()]
        within("bytes in a segment, at most", max(lengths), 0.26 * size, size / 3)
        check_moves(bulk, 100)


@case(100, 1000)
def limit__in_time(lab, mbit):
    """What the flow's own rate drains in that time, but two segments of two packets at least"""
    lab.slow(mbit)
    lab.sysctl("a", tcp_limit_output_usecs=200)
    with Bulk(lab) as bulk:
        sleep_us(300_000)
        # The rate varies from sample to sample.
        size = max(1.25 * 200 * mbit / 8, 2 * (2 * 1448 + OVERHEAD))
        within("bytes in the queue, at most", max(looks(lab, bulk)), 0.4 * size, size)
        check_moves(bulk, mbit)


@case(0, 1, 4000)
def limit__less_than_two_segments(lab, size):
    """These are there nevertheless"""
    lab.slow(100)
    lab.sysctl("a", tcp_limit_output_bytes=size)
    with Bulk(lab) as bulk:
        sleep_us(300_000)
        within("bytes in the queue, at most", max(looks(lab, bulk)), 1, 2 * (2 * 1448 + OVERHEAD))
        check_moves(bulk, 100)


@case
def limit__timeouts_of_seconds(lab):
    """Where the wheel has the timers, the limit holds, too"""
    lab.slow(100)
    lab.sysctl("a", tcp_rto_min=1_500_000, tcp_early_retrans=0)
    with Bulk(lab) as bulk:
        sleep_us(300_000)
        lab.sysctl("a", tcp_limit_output_bytes=20000)
        sleep_us(100_000)
        within("bytes in the queue, at most", max(looks(lab, bulk)), 12000, 20000)
        check_moves(bulk, 100)


@case
def limit__changes_under_traffic(lab):
    lab.slow(100)
    with Bulk(lab) as bulk:
        for size in KERNELS, 40000, KERNELS, 20000:
            lab.sysctl("a", tcp_limit_output_bytes=size)
            sleep_us(100_000)
            most = max(looks(lab, bulk, 50))
            if size == KERNELS:
                within("bytes in the queue by the kernel's rule, at most", most, 50_000, 200_000)
            else:
                within("bytes in the queue, at most", most, 0.6 * size, size)
            check_moves(bulk, 100, tolerance=0.2)


@case
def limit__other_namespace(lab):
    """b keeps the kernel's rule"""
    lab.sysctl("a", tcp_limit_output_usecs=200)
    within("tcp_limit_output_usecs of b", int(lab.read("b", "tcp_limit_output_usecs")), 0, 0)


@case
def limit__bad_values(lab):
    for value in -1, 1_000_001, "x":
        lab.refuses("a", "tcp_limit_output_usecs", value)


@case
def counters(lab):
    """What waits is counted; some of it belongs to a user at the moment"""
    lab.slow(100)
    lab.sysctl("a", tcp_limit_output_bytes=40000)
    with Bulk(lab) as bulk:
        sleep_us(300_000)
        before = lab.stat()
        sent = bulk.acked()
        sleep_us(300_000)
        after, sent = lab.stat(), bulk.acked() - sent
    grown = {name: after[name] - before[name] for name in after}
    # each segment is waited for
    within("sockets resumed", grown["QueueThrottled"], 0.7 * sent / 13300, 1.2 * sent / 13000)
    within("runs", grown["QueueRuns"], 1, grown["QueueThrottled"])
    within("deferred", grown["QueueDeferred"], 0, grown["QueueThrottled"])
    within("bytes left when resumed", grown["QueueBytes"] / grown["QueueThrottled"], 0, 40000)


def pace(c):
    c.a.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 5_000_000)


def tx_delay(c):
    c.a.setsockopt(socket.IPPROTO_TCP, TCP_TX_DELAY, 2000)


def encrypt(c):
    secrets = struct.pack("=HH8s16s4s8s", TLS_1_2, AES_GCM_128, bytes(8), bytes(16), bytes(4), bytes(8))
    for s, direction in (c.a, TLS_TX), (c.b, TLS_RX):
        s.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        s.setsockopt(SOL_TLS, direction, secrets)


# what a user may do with a socket: (preparation, protocol, qdisc, Mbit/s)
USES = {
    "nothing": (None, 0, "pfifo_fast", 100),
    "pacing": (pace, 0, "pfifo_fast", 40),
    "fq_pacing": (pace, 0, "fq", 40),
    "tx_delay": (tx_delay, 0, "fq", 100),
    "ktls": (encrypt, 0, "pfifo_fast", 100),
    "mptcp": (None, IPPROTO_MPTCP, "pfifo_fast", 100),
}


@case(*USES)
def transfer(lab, use, size=4_000_000):
    """All arrives, as fast as it can"""
    prepare, protocol, qdisc, mbit = USES[use]
    lab.slow(100, qdisc)
    lab.sysctl("a", tcp_limit_output_bytes=40000)
    before = lab.stat()["QueueThrottled"]
    with lab.connect(protocol=protocol) as c:
        if prepare:
            prepare(c)
        began = time.monotonic()
        c.transfer(size)
        within("Mbit/s", size * 8 / 10**6 / (time.monotonic() - began), 0.85 * mbit, 1.02 * mbit)
    if mbit == 100:
        within("sockets resumed", lab.stat()["QueueThrottled"] - before, 0.5 * size / 13300, 2 * size / 13000)


@case
def transfer__zerocopy(lab, size=4_000_000):
    """The pages of a user who waits for them come back as the device sends them"""
    lab.slow(100)
    lab.sysctl("a", tcp_limit_output_bytes=40000)
    with lab.connect() as c:
        c.a.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        pages, sent, received, done, most = mmap.mmap(-1, 1 << 14), 0, 0, 0, 0
        while done < size // len(pages):
            c.a.setblocking(False)
            c.b.setblocking(False)
            with contextlib.suppress(OSError):
                while sent < size:
                    sent += c.a.send(pages, MSG_ZEROCOPY)
            with contextlib.suppress(OSError):
                received += len(c.b.recv(1 << 20))
            with contextlib.suppress(OSError):
                (_, _, message), = c.a.recvmsg(0, 100, socket.MSG_ERRQUEUE)[1]
                done = struct.unpack_from("=II", message, 8)[1] + 1
            if received > size / 10:    # before, a small segment may end the congestion window, on top of two
                most = max(most, c.queued())
            sleep_us(100)
        within("bytes in the queue, at most", most, 20000, 40000)
        c.b.settimeout(10)
        while received < sent:
            received += len(c.b.recv(1 << 20))


@case
def load_unload__while_throttled(lab):
    """Sockets that wait in the module's queue, or for the kernel's, go on"""
    lab.slow(100)
    with Bulk(lab) as bulk:
        for _ in range(10):
            lab.sysctl("a", tcp_limit_output_bytes=40000)
            check_moves(bulk, 100, tolerance=0.2)
            rmmod()
            check_moves(bulk, 100, tolerance=0.2)
            insmod()
            check_moves(bulk, 100, tolerance=0.2)


@case
def close__while_throttled(lab):
    """Closed, or aborted, with much in the queue: nothing is left behind"""
    lab.slow(10)
    lab.sysctl("a", tcp_limit_output_bytes=20000)
    for abort in False, True:
        connections = lab.connections(20, ("10.0.0.2", 6000))
        for c in connections:
            c.a.setblocking(False)
            c.a.send(bytes(200_000))
        sleep_us(5000)
        for c in connections:
            if abort:
                c.close()
            else:
                c.a.close()
        received = 0
        for c in connections if not abort else ():
            while got := len(c.b.recv(1 << 20)):
                received += got
            c.b.close()
        if not abort:
            within("bytes received", received, 20 * 20000, 20 * 200_000)
        sleep_us(1_000_000)
        with lab.on("a"), open("/proc/net/sockstat", encoding="ascii") as f:
            line = next(line for line in f if line.startswith("TCP:")).split()
        within("sockets in use", int(line[line.index("inuse") + 1]), 0, 0)
        within("orphans", int(line[line.index("orphan") + 1]), 0, 0)


@case
def resume__fails_on_the_spot(lab):
    """A segment that is lost still waits in the host, and what the socket sends meanwhile fails: that
    this is gone at once is no reason to try again at once, over and over, while the clock stands still"""
    with lab.connect() as c:
        # Of three segments the third arrives, the others stay in the qdisc.
        run("tc", "-n", "a", "qdisc", "replace", "dev", "e0", "root", "netem", "delay", "2s", "reorder", "100%",
            "gap", "3")
        c.send(6)
        sleep_us(1000)
        run("ip", "-n", "a", "route", "del", "10.0.0.0/24")
        before, waited = lab.stat()["QueueRuns"], lab.nstat("a")["TcpExtTCPSpuriousRtxHostQueues"]
        c.send()
        sleep_us(1_000_000)
        within("runs of the queue", lab.stat()["QueueRuns"] - before, 0, 5)
        within("retransmissions that a clone has held up", lab.nstat("a")["TcpExtTCPSpuriousRtxHostQueues"] - waited,
               1, 100)
        run("ip", "-n", "a", "route", "add", "10.0.0.0/24", "dev", "e0")
        c.receive(7)


@case
def many__all_make_progress(lab, count=1000):
    """1000 sockets through 10 Gbit/s: in ten round trips each gets something through, and none gets
    much more than others"""
    lab.slow(10_000, "fq")
    lab.sysctl("a", tcp_limit_output_bytes=40000)
    connections = lab.connections(count, ("10.0.0.2", 6000))
    for c in connections:
        c.a.setblocking(False)
        c.b.setblocking(False)
    ended = threading.Event()

    def pump():
        data = bytes(1 << 17)
        while not ended.is_set():
            for c in connections:
                with contextlib.suppress(BlockingIOError):
                    c.a.send(data)
                with contextlib.suppress(BlockingIOError):
                    c.b.recv(1 << 20)
            sleep_us(100)

    thread = threading.Thread(target=pump)
    thread.start()
    sleep_us(200_000)
    for _ in range(2):
        round_trips = [c.info()[1] for c in connections]
        before = [c.acked() for c in connections]
        sleep_us(10 * max(round_trips))
        moved = [c.acked() - sent for c, sent in zip(connections, before)]
        within("sockets that have stalled", sum(not n for n in moved), 0, 0)
        within("Jain's index", sum(moved) ** 2 / (count * sum(n * n for n in moved)), 0.95, 1)
    ended.set()
    thread.join()
    for c in connections:
        c.close()


if __name__ == "__main__":
    main()
