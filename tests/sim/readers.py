#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched
"""Whoever reads what a connection does, changes nothing of it: TCP_INFO, ss, /proc/net/tcp."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, insmod, main, near, rmmod, run, sleep_us, within  # noqa: E402

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
RTO_MIN_MS = 50         # of the route
TICK = 1000             # us
IDLE = 50               # connections
SLAB = "kmalloc-256"

READERS = {
    "nobody": lambda lab, c: None,
    "tcp_info": lambda lab, c: c.info(),
    "ss": lambda lab, c: run("ip", "netns", "exec", "a", "ss", "-tni"),
    "proc": lambda lab, c: lab.sockets("a"),
}


@case(*READERS)
def backoff__route(lab, reader):
    """On a route with a minimum of its own, each wait is twice the one before, whoever looks meanwhile"""
    run("ip", "-n", "a", "route", "change", "10.0.0.0/24", "dev", "e0", "rto_min", f"{RTO_MIN_MS}ms")
    lab.sysctl("a", tcp_early_retrans=0, **({"tcp_rto_min": 200} if FINETCP else {}))
    for _ in range(6):
        check_backoff(lab, lambda c: READERS[reader](lab, c))


def check_backoff(lab, read):
    """Somebody looks when the kernel has just let go of the route, after 6.2 s (tcp_retries1)"""
    with lab.connect() as c:
        wire = lab.capture()
        c.lose()
        c.send()
        sleep_us(6_300_000)
        for _ in range(50):
            sleep_us(20_000)
            read(c)
        sleep_us(9_000_000)
        gaps = wire.gaps()
        near("retransmissions", len(gaps), 8, 0)
        for n, gap in enumerate(gaps):
            want = RTO_MIN_MS * 1000 + lab.rtt_us << n
            within(f"retransmission {n + 1}", gap, want - TICK, want * 9 / 8 + 5 * TICK)


@case
def timeout__no_longer_than_its_maximum(lab):
    """On a long path, TCP_INFO says what the timer does"""
    lab.sysctl("a", tcp_rto_max_ms=1000)
    lab.delay(900_000)
    with lab.connect() as c:
        near("tcpi_rto", c.info()[0], 1_000_000, 0)


def objects():
    """Those of the slab that are in use"""
    with open("/proc/slabinfo", encoding="ascii") as f:
        for line in f:
            if line.startswith(SLAB + " "):
                return int(line.split()[1])
    raise AssertionError(f"there is no {SLAB}")


@case(*READERS)
def idle(lab, reader):
    """Connections that were there before finetcp, and are silent, take no memory for being looked at"""
    if FINETCP:
        rmmod()
    connections = [lab.connect(exchanges=2) for _ in range(IDLE)]
    if FINETCP:
        insmod()
        lab.sysctl("a", tcp_rto_min=200)
    sleep_us(1_000_000)

    def read():
        for c in connections:
            READERS[reader](lab, c)

    before = objects(), lab.stat()["Sockets"] if FINETCP else 0
    read()
    within(f"objects of {SLAB} more", objects() - before[0], -IDLE, IDLE / 2)
    if FINETCP:
        near("sockets with a timer of their own", lab.stat()["Sockets"], before[1], 0)
    for c in connections:
        c.close()


if __name__ == "__main__":
    main()
