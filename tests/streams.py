# SPDX-License-Identifier: GPL-2.0
"""Connections whose bytes are known by their place, so that each can be checked when it arrives, and
what is left of all sockets in the end."""

import contextlib
import glob
import random
import time

from lab import within

BLOCK = random.Random(1).randbytes(1 << 16) * 2
PAGE = 4096
# What the debug kernel notes about other objects, with a store of its own
NOTES = "debug_objects_cache", "kmemleak_object"


class Stream:
    """A connection (lab.Connection) that moves data from a to b"""

    def __init__(self, number, connection):
        self.connection = connection
        self.begin = number * 7919
        self.sent = self.received = 0
        connection.a.setblocking(False)
        connection.b.setblocking(False)

    def piece(self, place, size):
        start = (self.begin + place) % (len(BLOCK) // 2)
        return BLOCK[start:start + size]

    def send(self, size):
        """As much of that as there is room for"""
        with contextlib.suppress(BlockingIOError):
            self.sent += self.connection.a.send(self.piece(self.sent, size))

    def receive(self, size=1 << 15):
        """Whether all has arrived"""
        with contextlib.suppress(BlockingIOError):
            got = self.connection.b.recv(size)
            if not got:
                raise AssertionError(f"the connection ended after {self.received} bytes")
            if got != self.piece(self.received, len(got)):
                raise AssertionError(f"other bytes arrived after {self.received}")
            self.received += len(got)
        return self.received == self.sent


def finish(streams, seconds=300):
    """Receive all that was sent"""
    deadline = time.monotonic() + seconds
    while streams := [s for s in streams if not s.receive()]:
        within("time until all has arrived", time.monotonic(), 0, deadline)
        time.sleep(0.01)


def sockets_gone(lab, hosts="ab"):
    """Wait until the hosts have no TCP socket and no memory of one any more"""
    deadline = time.monotonic() + 90
    left = None
    while time.monotonic() < deadline:
        left = {}
        for host in hosts:
            with lab.on(host), open("/proc/net/sockstat", encoding="ascii") as f:
                words = next(line for line in f if line.startswith("TCP:")).split()
            left.update({(host, name): int(words[words.index(name) + 1]) for name in ("inuse", "orphan", "tw")})
        if not any(left.values()):
            return
        time.sleep(0.5)
    raise AssertionError(f"sockets are left: {left}")


def slab_bytes():
    """What all slabs take, the empty ones given back, and what is kept only in case"""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("2")
    for path in glob.glob("/sys/kernel/slab/*/shrink"):
        with open(path, "w", encoding="ascii") as f:
            f.write("1")
    with open("/proc/slabinfo", encoding="ascii") as f:
        rows = [line.split() for line in f.readlines()[2:]]
    return sum(int(row[-2]) * int(row[5]) * PAGE for row in rows if row[0] not in NOTES)


def settled(lab):
    """The same, once the sockets are gone and what RCU frees is free"""
    sockets_gone(lab)
    time.sleep(3)
    return slab_bytes()

