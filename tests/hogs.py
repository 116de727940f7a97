# SPDX-License-Identifier: GPL-2.0
"""A receiver that shares its processor with others who want all of it."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time

from lab import insmod, rmmod

COUNTERS = "ExtraRuns", "ExtraRunUsecs", "ExtraRunOverdue", "ExtraRunUnpaid", "ExtraRunYields"


def ran_ns(pid):
    """For how long a task has run"""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as f:
        return int(f.read().split()[0])


class Hogs:
    """Processes on one processor that do nothing but run"""

    def __init__(self, count, cpu=1):
        self.all = [subprocess.Popen(["taskset", "-c", str(cpu), "sh", "-c", "while :; do :; done"])
                    for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hog in self.all:
            hog.kill()
        for hog in self.all:
            hog.wait()

    def ran_ns(self):
        return [ran_ns(hog.pid) for hog in self.all]


class Reader:
    """A process on one processor that reads from a socket without end. The peer's end stays with the
    caller, who closes it to end this"""

    def __init__(self, s, size=1 << 20, cpu=1, read=None):
        self.pid = os.fork()
        if not self.pid:
            os.sched_setaffinity(0, {cpu})
            (read or self.read)(s, bytearray(size))
            os._exit(0)
        s.close()

    @staticmethod
    def read(s, buffer):
        while s.recv_into(buffer):
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def ran_ns(self):
        return ran_ns(self.pid)


class Writer(threading.Thread):
    """Sends on a socket without end, until the with statement does"""

    def __init__(self, s):
        super().__init__(daemon=True)
        self.s, self.ended = s, False

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        with contextlib.suppress(OSError):
            self.s.shutdown(socket.SHUT_RDWR)
        self.join()
        self.s.close()

    def run(self):
        data = bytes(1 << 18)
        with contextlib.suppress(OSError):
            while not self.ended:
                self.s.sendall(data)


@contextlib.contextmanager
def loaded(lab, extra_run):
    """The module, with tcp_extra_run in b, which receives"""
    insmod()
    try:
        lab.sysctl("b", tcp_extra_run=extra_run)
        yield
    finally:
        rmmod()


def counted(lab):
    return [lab.stat("b")[name] for name in COUNTERS]


@contextlib.contextmanager
def receiving(lab, **options):
    """A connection that a fills and b reads, on processor 1"""
    (c,) = lab.connections(1, ("10.0.0.2", 6000))
    with Reader(c.b, **options) as reader, Writer(c.a) as writer:
        yield reader, writer


def shares(lab, hogs, seconds, **options):
    """The share of processor 1 that the receiver has, and those of hogs"""
    with receiving(lab, **options) as (reader, _), Hogs(hogs) as others:
        time.sleep(1)
        before, began = (reader.ran_ns(), others.ran_ns()), time.monotonic_ns()
        time.sleep(seconds)
        after, ns = (reader.ran_ns(), others.ran_ns()), time.monotonic_ns() - began
    return (after[0] - before[0]) / ns, [(a - b) / ns for a, b in zip(after[1], before[1])]
