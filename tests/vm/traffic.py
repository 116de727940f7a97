#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --smp 2
# guest: --kernel patched --smp 2 --append highres=off
# guest: --kernel debug --smp 2
"""Data arrives whole, whatever the congestion control, the protocol, and what
happens to sockets, settings and namespaces meanwhile. On two processors."""

import contextlib
import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import IPPROTO_MPTCP, SLOW, Lab, case, main, within  # noqa: E402

SIZE = 1 << 20 if SLOW else 10 << 20
with open("/proc/sys/net/ipv4/tcp_available_congestion_control", encoding="ascii") as available:
    CONTROLS = available.read().split()
# What the debug kernel watches is the same with each: one of a kind will do there.
KINDS = [name for name in CONTROLS if not SLOW or name in ("reno", "cubic", "dctcp", "bbr")]


@case
def congestion_control__all_there(_):
    """Every one of the tree, or the cases below prove less than they say"""
    tree = "bbr bic cdg cubic dctcp highspeed htcp hybla illinois lp nv reno scalable vegas veno westwood yeah"
    missing = set(tree.split()) - set(CONTROLS)
    assert not missing, missing


@case(*KINDS)
def congestion_control(lab, name):
    lab.sysctl("a", tcp_rto_min=200)
    lab.lossy(1)
    with lab.connect() as c:
        c.a.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        c.transfer(SIZE)
        within("segments sent again", c.retransmitted(), 1, SIZE)
    # On a slow machine each timeout is some ticks, and none gets as far as the clock.
    stat = lab.stat()
    within("deadlines", stat["TimersStarted"] + stat["TimersRearmed"], 1, SIZE)


@case
def ipv6(lab):
    lab.sysctl("a", tcp_rto_min=200)
    lab.lossy(1)
    with lab.connect(socket.AF_INET6) as c:
        c.transfer(SIZE)


@case
def mptcp(lab):
    lab.sysctl("a", tcp_rto_min=200)
    lab.lossy(1)
    with lab.connect(protocol=IPPROTO_MPTCP) as c:
        c.transfer(SIZE // 4)


@case
def first_timeout__never_early(lab):
    """How late is up to the machine: exact times are the simulator's"""
    lab.sysctl("a", tcp_rto_min=20000, tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect() as c:
        rto = c.info()[0]
        within("tcpi_rto", rto, 20000, 2_000_000)
        within("first retransmission", c.lose_one(wire, 1.5 * rto + 200_000)[0], rto - 100, rto + 50000)


@case
def sockets__a_thousand(lab):
    """Opened, used and closed, in threads of their own"""
    lab.sysctl("a", tcp_rto_min=50)
    lab.lossy(1)
    before = lab.stat()["Sockets"]
    address = ("10.0.0.2", 6000)
    number, threads = (200 if SLOW else 1000), 4
    with lab.on("b"):
        listener = socket.create_server(address, backlog=128)
    errors = []

    def serve():
        for _ in range(number):
            with listener.accept()[0] as s:
                s.sendall(s.recv(4))

    def use():
        try:
            with lab.on("a"):       # a thread's namespace is its own
                for _ in range(number // threads):
                    with socket.create_connection(address, timeout=60) as s:
                        s.sendall(b"ping")
                        assert s.recv(4) == b"ping"
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=f) for f in [serve] + [use] * threads]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    listener.close()
    assert not errors, errors
    within("Sockets", lab.stat()["Sockets"] - before, number, 2 * number)


@case
def sysctl__changes_under_traffic(lab):
    lab.lossy(1)
    done = threading.Event()
    writes = 0

    def write():
        nonlocal writes
        while not done.is_set():
            lab.sysctl("a", tcp_rto_min=(50, 200000, 200, 20)[writes % 4])
            writes += 1

    writer = threading.Thread(target=write)
    with lab.connect() as c:
        writer.start()
        try:
            c.transfer(SIZE // 4)
            while writes < 20 and writer.is_alive():
                c.transfer(SIZE // 4)
        finally:
            done.set()
            writer.join()
    within("changes", writes, 20, 1e9)


@case
def namespaces__deleted_while_timers_run(lab):
    lab.__exit__()
    for _ in range(3 if SLOW else 10):
        with contextlib.ExitStack() as sockets:
            with Lab() as other:
                other.sysctl("a", tcp_rto_min=100)
                for _ in range(5):
                    # Not aborted: the namespace has gone when they are closed.
                    c = other.connect(exchanges=3)
                    sockets.callback(c.a.close)
                    sockets.callback(c.b.close)
                    c.lose()
                    c.send(2)
            time.sleep(0.01)
    lab.__enter__()


if __name__ == "__main__":
    main()
