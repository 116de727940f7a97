#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --smp 2 --one-thread --no-module
# guest: --kernel debug --smp 2 --one-thread --no-module
"""The module comes and goes on two processors, under traffic that loses packets
and timers that expire meanwhile. No connection may be lost."""

import contextlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import SLOW, case, insmod, main, rmmod  # noqa: E402

TIMES = 10 if SLOW else 50
STREAMS = 4
CHILDREN = 10 if SLOW else 50  # of a listener


@case
def load_unload__under_iperf3(lab):
    lab.lossy(1)
    lab.sysctl("a", tcp_rto_min_us=200)
    server = subprocess.Popen(["ip", "netns", "exec", "b", "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(2)
    # A debug kernel that is busy sending takes minutes to load a module.
    rate = "4M" if SLOW else "0"
    client = subprocess.Popen(
        ["ip", "netns", "exec", "a", "iperf3", "-c", "10.0.0.2", "-P", str(STREAMS), "-b", rate, "-t", "3600", "-J"],
        stdout=subprocess.PIPE, text=True)
    try:
        for n in range(TIMES):
            insmod()
            time.sleep(0.01 * (n % 10))
            rmmod()
            assert client.poll() is None, "iperf3 ended: " + client.communicate()[0]
    finally:
        # It then reports as at the end of its time.
        client.send_signal(2)
        report = json.loads(client.communicate(timeout=60)[0])
        server.wait(60)
    assert report.get("error", "interrupt").startswith("interrupt"), report["error"]
    for stream in report["end"]["streams"]:
        assert stream["sender"]["retransmits"] > 0, stream
    # and none has stopped: each has moved something in the last two seconds
    for stream in zip(*(interval["streams"] for interval in report["intervals"][-3:-1])):
        assert sum(interval["bytes"] for interval in stream) > 0, stream
    assert len(report["end"]["streams"]) == STREAMS


@case
def load_unload__bytes_are_right(lab):
    """Bulk transfers with a checksum, in both states and across the change"""
    lab.lossy(1)
    lab.sysctl("a", tcp_rto_min_us=200)
    with lab.connect() as c, contextlib.ExitStack() as stack:
        changes = subprocess.Popen(
            ["sh", "-c", f"for i in $(seq {TIMES // 2}); do insmod $FINETCP_KO && rmmod finetcp || exit; done"])
        stack.callback(changes.wait)
        while changes.poll() is None:
            c.transfer(1 << 20)
        assert changes.returncode == 0


@case
def rmmod__while_timers_fire(lab):
    """A hundred sockets that wait for all kinds of timeouts"""
    lab.sysctl("a", tcp_rto_min_us=500)
    for _ in range(3 if SLOW else 10):
        insmod()
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(lab.connect(exchanges=3)) for _ in range(20 if SLOW else 100)]
            for c in connections:
                c.lose()
                c.send(2)
            rmmod()
            for c in connections:
                c.lose(False)
            for c in connections:
                c.receive(2)


def open_and_close(lab, port, ended, closed):
    """Listeners that are closed with connections that nobody has accepted"""
    while not ended.is_set():
        with lab.on("b"):
            listener = socket.create_server(("10.0.0.2", port), backlog=CHILDREN)
        with contextlib.ExitStack() as stack, lab.on("a"):
            for _ in range(CHILDREN):
                s = stack.enter_context(socket.create_connection(("10.0.0.2", port), timeout=10))
                s.send(b"x")    # so that an ACK is delayed
            listener.close()
        closed.value += 1
        time.sleep(0.1)     # Loading a module takes its time, too.


@case
def rmmod__while_listeners_close(lab):
    """Who closes a listener takes its children, and relies on that nobody owns them"""
    until, ended = time.monotonic() + 15, multiprocessing.Event()
    closed = [multiprocessing.Value("Q", lock=False) for _ in range(2)]
    closers = [multiprocessing.Process(target=open_and_close, args=(lab, 7100 + n, ended, c))
               for n, c in enumerate(closed)]
    for p in closers:
        p.start()
    try:
        while time.monotonic() < until or min(c.value for c in closed) < 3:
            insmod()
            rmmod()
            assert all(p.is_alive() for p in closers)
    finally:
        ended.set()         # Python ends when they have.
    for p in closers:
        p.join()
        assert p.exitcode == 0


def knock(lab, port, ended, knocked):
    """Connections that are given up, and listeners that are closed, while SYN-ACKs are under way"""
    while not ended.is_set():
        with lab.on("b"):
            listener = socket.create_server(("10.0.0.2", port), backlog=4 * CHILDREN)
        with contextlib.ExitStack() as stack, lab.on("a"):
            for n in range(CHILDREN):
                s = stack.enter_context(socket.socket())
                s.setblocking(False)
                s.connect_ex(("10.0.0.2", port))
                if n % 2:
                    s.close()
            time.sleep(knocked.value % 10 / 1000)
            listener.close()
        knocked.value += 1


@case
def rmmod__while_requests_wait(lab):
    """A request has a timer of its own, which sends SYN-ACKs early, and outlives the module"""
    lab.delay(3000)
    before = lab.nstat("b").get("TcpRetransSegs", 0)
    until, ended = time.monotonic() + 15, multiprocessing.Event()
    knocked = [multiprocessing.Value("Q", lock=False) for _ in range(2)]
    knockers = [multiprocessing.Process(target=knock, args=(lab, 7200 + n, ended, k)) for n, k in enumerate(knocked)]
    for p in knockers:
        p.start()
    try:
        while time.monotonic() < until or min(k.value for k in knocked) < 10:
            insmod()
            for host in "ab":
                lab.sysctl(host, tcp_rto_init=100)
            time.sleep(0.2)
            rmmod()
            assert all(p.is_alive() for p in knockers)
    finally:
        ended.set()
    for p in knockers:
        p.join()
        assert p.exitcode == 0
    assert lab.nstat("b").get("TcpRetransSegs", 0) > before, "no SYN-ACK was sent early"


if __name__ == "__main__":
    # Else the module's own suites run at each load.
    with open("/sys/module/kunit/parameters/filter_glob", "w", encoding="ascii") as suites:
        suites.write("none")
    main()
