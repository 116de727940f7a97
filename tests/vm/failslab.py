#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel debug --smp 2
"""No memory for a socket's timer: the timer wheel serves the socket until there
is some. Only allocations of this process fail, and of the size of a timer."""

import contextlib
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import Skip, case, main, within  # noqa: E402

FAILSLAB = "/sys/kernel/debug/failslab"
CACHES = "kmalloc-192", "kmalloc-256", "kmalloc-512"


def write(path, value):
    with open(path, "w", encoding="ascii") as f:
        f.write(str(value))


@contextlib.contextmanager
def no_memory():
    caches = [f"/sys/kernel/slab/{cache}/failslab" for cache in CACHES]
    if not all(map(os.path.exists, [FAILSLAB] + caches)):
        raise Skip("this kernel has no failslab for chosen caches")
    for cache in caches:
        write(cache, 1)
    for name, value in ("cache-filter", "Y"), ("task-filter", "Y"), ("times", -1), ("verbose", 0), ("probability", 100):
        write(f"{FAILSLAB}/{name}", value)
    write("/proc/self/make-it-fail", 1)
    try:
        yield
    finally:
        write("/proc/self/make-it-fail", 0)
        write(f"{FAILSLAB}/probability", 0)
        for cache in caches:
            write(cache, 0)


@case
def no_memory__wheel_serves(lab):
    lab.sysctl("a", tcp_rto_min=200)
    lab.connect().close()
    before = lab.stat()
    with contextlib.ExitStack() as stack:
        with no_memory():
            connections = [stack.enter_context(lab.connect(exchanges=3)) for _ in range(10)]
            without = lab.stat()
            within("AllocFailures", without["AllocFailures"] - before["AllocFailures"], 10, 10000)
            for c in connections:
                c.lose()
                c.send()
        time.sleep(0.5)
        for c in connections:
            c.recover()
            c.transfer(100000)
        after = lab.stat()
        within("AllocFailures since", after["AllocFailures"] - without["AllocFailures"], 0, 1000)
        # Some may have had one before: in softirq, whose allocations do not fail.
        within("Sockets", after["Sockets"] - before["Sockets"], 10, 10)


if __name__ == "__main__":
    main()
