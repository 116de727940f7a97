#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --smp 2 --icount --no-module
"""Extra runs are at nobody's expense: each is taken back. Counted in instructions: a processor of the
guest that stands still, because somebody else runs on the host, would be charged to who has it."""

import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from hogs import counted, loaded, shares  # noqa: E402
from lab import case, main, within  # noqa: E402

HOGS = 3
SECONDS = 5


def fair_shares(lab, **options):
    with loaded(lab, 3000):
        mine, others = shares(lab, HOGS, SECONDS, **options)
        runs = counted(lab)[0]
    print(f"# {runs} extra runs; {mine:.4f} for the receiver, " + ", ".join(f"{o:.4f}" for o in others))
    within("extra runs", runs, 1, 10**6)
    within("the receiver's share, to that of the others", mine * HOGS / sum(others), 0.98, 1.005)
    within("the least share of another, to the largest", min(others) / max(others), 0.99, 1)


@case
def reader(lab):
    """A receiver that reads as much as it can gets no more of the processor than the others"""
    fair_shares(lab, size=8 << 20)


@case
def hostile(lab):
    """Nor does one that keeps its backlog full: it reads byte by byte, into memory that has to be found
    each time"""
    def read(s, buffer):
        view = memoryview(buffer)
        while True:
            at = random.randrange(len(buffer) - 65536)
            if not s.recv_into(view[at:at + random.choice((1, 65536))]):
                return

    fair_shares(lab, read=read)


if __name__ == "__main__":
    main()
