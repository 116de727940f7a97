#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --smp 2 --one-thread --no-module
# guest: --kernel debug --smp 2 --one-thread --no-module
"""Small queues on two processors: senders come and go, and are aborted, while
the module does, and the limit changes. Nothing may be left behind."""

import contextlib
import multiprocessing
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, insmod, main, near, rmmod, within  # noqa: E402

DEBUG = os.environ["FINETCP_KERNEL"] == "debug"
SECONDS = 120 if DEBUG else 30
SENDERS = 4
ADDRESS = "10.0.0.2", 7000
PAGES_A_CPU = 256       # that each processor may count for itself (net.core.mem_pcpu_rsv)
LIMITS = 10000, 40000, 131072, 4 << 20


def abort(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def serve(lab, ready):
    """Reads some of what comes; then closes, or aborts"""
    def one(s):
        with contextlib.suppress(OSError):
            left = random.randrange(1 << 20)
            while left > 0 and (got := s.recv(1 << 16)):
                left -= len(got)
        (abort if random.random() < 0.5 else socket.socket.close)(s)

    with lab.on("b"):
        listener = socket.create_server(ADDRESS, backlog=100)
    ready.set()
    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


def send(lab, until, sent):
    """Connects, sends, and closes or aborts, again and again"""
    data = bytes(1 << 18)
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            with lab.on("a"):
                s = socket.create_connection(ADDRESS, timeout=10)
            try:
                for _ in range(random.randrange(8)):
                    s.sendall(data)
                    sent.value += len(data)
            finally:
                (abort if random.random() < 0.3 else socket.socket.close)(s)


def sockets(lab):
    """TCP sockets of host a, all TCP sockets, and the pages that these have"""
    with lab.on("a"), open("/proc/net/sockstat", encoding="ascii") as f:
        words = next(line for line in f if line.startswith("TCP:")).split()
    return [int(words[words.index(name) + 1]) for name in ("inuse", "orphan", "alloc", "mem")]


@case
def senders__come_and_go(lab):
    *before, pages = sockets(lab)
    lab.slow(200)
    lab.sysctl("a", tcp_fin_timeout=1)
    ready, until = multiprocessing.Event(), time.monotonic() + SECONDS
    server = multiprocessing.Process(target=serve, args=(lab, ready))
    server.start()
    ready.wait()
    sent = [multiprocessing.Value("Q", lock=False) for _ in range(SENDERS)]
    senders = [multiprocessing.Process(target=send, args=(lab, until, bytes_sent)) for bytes_sent in sent]
    for p in senders:
        p.start()
    changes = 0
    while time.monotonic() < until:
        insmod()
        for limit in LIMITS:
            lab.sysctl("a", tcp_limit_output_bytes=limit, tcp_limit_output_usecs=random.choice((0, 200, 1000)))
            time.sleep(random.random())
            changes += 1
        rmmod()
    for p in senders:
        p.join()
    server.kill()
    server.join()
    within("changes of the limit", changes, 2 * len(LIMITS), 1e9)
    for bytes_sent in sent:
        within("bytes sent", bytes_sent.value, 1 << 20, 1e12)
    # What was closed in order may wait for the peer, who is gone.
    subprocess.run(["ip", "netns", "exec", "a", "ss", "-K", "-t"], stdout=subprocess.DEVNULL, check=False)
    deadline = time.monotonic() + 60
    while sockets(lab)[:3] != before and time.monotonic() < deadline:
        time.sleep(1)
    *after, pages_after = sockets(lab)
    assert after == before, (before, after)
    near("pages", pages_after, pages, os.cpu_count() * PAGES_A_CPU)


if __name__ == "__main__":
    # Else the module's own suites run at each load.
    with open("/sys/module/kunit/parameters/filter_glob", "w", encoding="ascii") as suites:
        suites.write("none")
    main()
