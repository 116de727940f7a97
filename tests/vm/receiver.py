#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --smp 2 --no-module
# guest: --kernel debug --smp 2 --no-module
"""The extra run of a receiver, which shares its processor with others. (What it costs them: shares.py.)"""

import contextlib
import os
import random
import re
import select
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from hogs import Hogs, Reader, counted, loaded, receiving, shares  # noqa: E402
from lab import TRACING, Skip, case, insmod, main, near, rmmod, run, tracing, within  # noqa: E402

MODEL = "/sys/kernel/debug/sched/preempt"
SECONDS = 5


@case
def setting__range(lab):
    with loaded(lab, 3000):
        for value in "-1", "3001", "x":
            lab.refuses("b", "tcp_extra_run", value)
        lab.sysctl("b", tcp_extra_run=0)
        near("tcp_extra_run", int(lab.read("a", "tcp_extra_run")), 0, 0)


@contextlib.contextmanager
def preemption(model):
    """Change the kernel's model of preemption meanwhile, where it has several"""
    if not os.path.exists(MODEL):
        if model != "full":
            raise Skip("this kernel has only full preemption")
        yield
        return
    with open(MODEL, encoding="ascii") as f:
        before = re.search(r"\((\w+)\)", f.read())[1]
    try:
        with open(MODEL, "w", encoding="ascii") as f:
            f.write(model)
        yield
    finally:
        with open(MODEL, "w", encoding="ascii") as f:
            f.write(before)


@case("full", "lazy")
def granted(lab, model):
    """With others on its processor, a receiver gets some, and each is traced"""
    with preemption(model), loaded(lab, 1000):
        tracing("events/finetcp/tcp_extra_run/enable", "1")
        try:
            shares(lab, 4, SECONDS, size=8 << 20)
        finally:
            tracing("events/enable", "0")
        runs, us, overdue, unpaid, yields = counted(lab)
        with open(f"{TRACING}/trace", encoding="ascii") as f:
            kinds = re.findall(r"tcp_extra_run: .*kind=(\w+) ", f.read())
        tracing("trace", "")
    print(f"# {runs} extra runs, {yields} yields, {overdue} overdue, {unpaid} unpaid")
    within("extra runs", runs, 1, 10**6)
    near("the time granted", us, 1000 * runs, 0)
    within("yields", yields, 0, runs)
    for kind, count in ("granted", runs), ("yielded", yields), ("overdue", overdue), ("unpaid", unpaid):
        near(f"events {kind}", kinds.count(kind), count, 0)


@case
def off(lab):
    with loaded(lab, 0):
        shares(lab, 4, SECONDS)
        near("extra runs", sum(counted(lab)), 0, 0)


@case
def beside__tasks_that_switch_wake_fork_and_fault(lab):
    """Both processors have more to do than they can"""
    busy = (f"stress-ng --quiet --timeout {2 * SECONDS}s --switch 1 --fork 1 --exec 1 --vm 1 --vm-bytes 32M --schedpolicy 2",
            "hackbench -g 1 -l 200")
    with loaded(lab, 1000), receiving(lab, size=8 << 20) as (_, writer), contextlib.ExitStack() as stack:
        others = [stack.enter_context(subprocess.Popen(command.split(), stdout=subprocess.DEVNULL)) for command in busy]
        for other in others:
            near("what it ends with", other.wait(), 0, 0)
        assert writer.is_alive(), "the connection broke"
        runs = counted(lab)[0]
    print(f"# {runs} extra runs")
    within("extra runs", runs, 1, 10**6)


@case
def short_read__nothing_is_left(lab):
    """Who gets less than he asked for has read all that there is, says epoll(7), and waits for an edge.
    There is none when nothing more arrives"""
    message = 4 << 20

    def read(s, buffer):
        s.setblocking(False)
        edges = select.epoll()
        edges.register(s, select.EPOLLIN | select.EPOLLET)
        left = message
        while edges.poll():
            got = len(buffer)
            while got == len(buffer):
                try:
                    got = s.recv_into(buffer)
                except BlockingIOError:
                    break
                if not got:
                    return
                left -= got
                if not left:
                    s.send(b"y")
                    left = message

    with loaded(lab, 1000):
        lab.sysctl("b", tcp_rmem="4096 16777216 33554432")
        (c,) = lab.connections(1, ("10.0.0.2", 6000))
        c.a.settimeout(30)
        with Reader(c.b, size=2 * message, read=read), Hogs(3):
            for _ in range(20):
                c.a.sendall(bytes(message))
                c.a.recv(1)
        c.a.close()
        within("extra runs", counted(lab)[0], 1, 10**6)


@case
def leaving(lab):
    """The module comes and goes while receivers have extra runs, and classes and processors change"""
    insmod()
    rmmod()
    with receiving(lab, size=8 << 20) as (reader, writer), Hogs(4):
        until = time.monotonic() + 2 * SECONDS
        rounds = runs = 0
        while time.monotonic() < until or (not runs and rounds < 20):
            with loaded(lab, 3000):
                time.sleep(random.uniform(0, 0.5))
                run("chrt", *random.choice((("-o", "-p", "0"), ("-r", "-p", "1"), ("-b", "-p", "0"))), str(reader.pid))
                run("taskset", "-pc", random.choice("01"), str(reader.pid))
                time.sleep(random.uniform(0, 0.5))
                runs += counted(lab)[0]
            rounds += 1
        run("chrt", "-o", "-p", "0", str(reader.pid))
        assert writer.is_alive(), "the connection broke"
    print(f"# {rounds} rounds, {runs} extra runs")
    within("extra runs", runs, 1, 10**6)


if __name__ == "__main__":
    main()
