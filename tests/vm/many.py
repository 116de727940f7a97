#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# sim: --kernel patched --no-module
"""The module comes and goes under many connections that move data and lose some of it: none of them is
lost, each byte is the one that was sent, and in the end the memory is back where it was.

CONNECTIONS and CYCLES say how many; a short run has 10000 and 5."""

import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import PORT, SLOW, case, insmod, main, near, rmmod, within  # noqa: E402
from streams import Stream, finish, settled  # noqa: E402

COUNT = int(os.environ.get("CONNECTIONS", 10_000))
CYCLES = int(os.environ.get("CYCLES", 5))


def live(lab, count, cycles):
    """So many connections through so many loads; returns the bytes that arrived"""
    chance = random.Random(count)
    streams = [Stream(n, c) for n, c in enumerate(lab.connections(count, ("10.0.0.2", PORT)))]

    def move():
        for s in streams:
            if chance.random() < 0.5:
                s.send(chance.choice((1, 100, 3000)))
        for s in streams:
            s.receive()

    for n in range(cycles):
        insmod()
        move()
        rmmod()
        move()
        print(f"# {n + 1} of {cycles} loads, {sum(s.received for s in streams)} bytes", flush=True)
    finish(streams)
    for s in streams:
        s.connection.close()
    return sum(s.received for s in streams)


@case
def load_unload__many_connections(lab):
    lab.lossy(1)
    lab.sysctl("a", tcp_rto_min_us=500)
    # What a first time leaves behind, it leaves once.
    live(lab, COUNT // 10, 1)
    before = settled(lab)
    arrived = live(lab, COUNT, CYCLES)
    print(f"# {COUNT} connections, {CYCLES} loads, {arrived} bytes", flush=True)
    within("bytes that arrived", arrived, COUNT * CYCLES, 10**12)
    # With few connections on the debug kernel, what the rest of the system takes or gives back counts.
    near("bytes more in slabs", settled(lab) - before, 0, max(64 * COUNT, 1 << 19 if SLOW else 0))


if __name__ == "__main__":
    # Else the module's own suites run at each load.
    with open("/sys/module/kunit/parameters/filter_glob", "w", encoding="ascii") as suites:
        suites.write("none")
    main()
