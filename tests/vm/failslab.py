#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel debug --smp 2
"""No memory for a socket's timer: the timer wheel serves the socket until there is some. No memory for
what the module has once, or in each namespace: it is not loaded, and leaves nothing behind. Only
allocations of this process fail."""

import contextlib
import ctypes
import errno
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import Skip, case, insmod, main, near, rmmod, within  # noqa: E402

FAILSLAB = "/sys/kernel/debug/failslab"
CACHES = "kmalloc-192", "kmalloc-256", "kmalloc-512"
INIT_MODULE = 175       # the system call
MANY = 1_000_000
libc = ctypes.CDLL(None, use_errno=True)


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


def most_failures(since):
    """However many segments there are, on each of two processors only one asks in a tenth of a second; or
    two, if the first is interrupted as it does"""
    return 4 * (1 + (time.monotonic() - since) / 0.1)


@case
def no_memory__wheel_serves(lab):
    lab.sysctl("a", tcp_rto_min=200)
    lab.connect().close()
    before = lab.stat()
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        with no_memory():
            connections = [stack.enter_context(lab.connect(exchanges=3)) for _ in range(10)]
            without = lab.stat()
            within("AllocFailures", without["AllocFailures"] - before["AllocFailures"], 1, most_failures(begin))
            for c in connections:
                c.lose()
                c.send()
        time.sleep(0.5)
        for c in connections:
            c.recover()
            c.transfer(100000)
        after = lab.stat()
        within("AllocFailures in all", after["AllocFailures"] - before["AllocFailures"], 1, most_failures(begin))
        # Some may have had one before: in softirq, whose allocations do not fail.
        within("Sockets", after["Sockets"] - before["Sockets"], 10, 10)


# One allocation of a system call fails, whichever it is.

def without_nth(nth, ask):
    """Ask, with the nth allocation failing. Returns the error, 0 for none, and how many there were up to
    then or in all"""
    fd = os.open("/proc/self/fail-nth", os.O_RDWR)
    os.write(fd, str(nth).encode())
    try:
        ask()
        error = 0
    except OSError as refused:
        error = refused.errno
    left = int(os.pread(fd, 20, 0))
    os.pwrite(fd, b"0", 0)
    os.close(fd)
    return error, nth - left


@contextlib.contextmanager
def all_may_fail():
    """All that may fail at all, if asked by fail-nth"""
    if not os.path.exists("/proc/self/fail-nth"):
        raise Skip("this kernel has no fail-nth")
    for name, value in ("cache-filter", "N"), ("ignore-gfp-wait", "N"), ("verbose", 0), ("probability", 0):
        write(f"{FAILSLAB}/{name}", value)
    try:
        yield
    finally:
        write(f"{FAILSLAB}/ignore-gfp-wait", "Y")


@case
def no_memory__load(lab):
    """Each of the module's allocations fails once: for itself, and for each of three namespaces. The
    kernel can do without some that it makes beside those"""
    with open(os.environ["FINETCP_KO"], "rb") as f:
        image = f.read()

    def load(parameters=b""):
        if libc.syscall(INIT_MODULE, image, ctypes.c_ulong(len(image)), parameters):
            raise OSError(ctypes.get_errno(), "init_module")

    rmmod()
    with open("/sys/module/kunit/parameters/filter_glob", "w", encoding="ascii") as suites:
        suites.write("none")
    try:
        with all_may_fail():
            # What comes before the module's own first is the loader's.
            error, first = without_nth(MANY, lambda: load(b"rto_min_floor=0"))
            near("error of a wrong parameter", error, errno.EINVAL, 0)
            error, last = without_nth(MANY, load)
            near("error", error, 0, 0)
            rmmod()
            refused = 0
            for nth in range(first - 10, last + 1):
                error, _ = without_nth(nth, load)
                if not error:
                    rmmod()
                    continue
                near(f"error without allocation {nth}", error, errno.ENOMEM, 0)
                refused += 1
                assert not os.path.exists("/sys/module/finetcp"), "the module is there"
                assert not os.path.exists("/proc/sys/net/ipv4/tcp_rto_min"), "a setting is there"
                assert not os.path.exists("/proc/net/finetcp_stat"), "the counters are there"
        print(f"# allocations {first - 10} to {last}, refused {refused} times", flush=True)
        within("times refused", refused, 15, last - first + 11)
    finally:
        insmod()


if __name__ == "__main__":
    main()
