#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# sim: --kernel patched
# guest: --kernel patched --smp 2
"""Networks that fail: each fault for a while, under connections that move data with short timeouts. No
byte is wrong, and when the fault is over all arrives.

SECONDS says for how long each; on the simulator's clock that is free."""

import os
import random
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, run, within  # noqa: E402
from streams import Stream, finish, sockets_gone  # noqa: E402

VIRTUAL = "patched-um" in os.environ["FINETCP_BUILD"]
SECONDS = int(os.environ.get("SECONDS", 5 if VIRTUAL else 15))
STREAMS = 8
STEP = 0.05             # seconds between two steps of a fault
PORT = 6000
RST, ACK = 4, 16


def netem(*words):
    """Both send through that"""
    def begin(lab):
        for host in "ab":
            # Each segment a packet of its own, or netem sees few of them
            run("ip", "-n", host, "link", "set", "e0", "gso_max_segs", "1")
            run("tc", "-n", host, "qdisc", "replace", "dev", "e0", "root", "netem", *words, "limit", "10000")
    return begin, None


def ip(lab, host, *words):
    run("ip", "-n", host, *words)


def link(lab, chance, n):
    if n % 8 == 0:
        host = chance.choice("ab")
        ip(lab, host, "link", "set", "e0", "down")
        time.sleep(chance.choice((0.001, 0.05, 0.3)))
        ip(lab, host, "link", "set", "e0", "up")


def mtu(lab, chance, _):
    ip(lab, chance.choice("ab"), "link", "set", "e0", "mtu", str(chance.choice((576, 900, 1500, 9000, 65535))))


def route(lab, chance, _):
    """Another minimum, another size, none at all, and back"""
    ip(lab, "a", "route", "replace", *chance.choice((
        ("10.0.0.0/24", "dev", "e0", "rto_min", f"{chance.choice((1, 5, 200))}ms"),
        ("10.0.0.0/24", "dev", "e0", "mtu", "lock", str(chance.choice((600, 1400)))),
        ("10.0.0.0/24", "dev", "e0", "initcwnd", "2", "window", "20000"),
        ("unreachable", "10.0.0.2/32"),
        ("blackhole", "10.0.0.2/32"),
    )))
    time.sleep(0.01)
    for kind in "unreachable", "blackhole":
        run("ip", "-n", "a", "route", "del", kind, "10.0.0.2/32", check=False)


def neighbour(lab, chance, _):
    """It moves, or is not there"""
    ip(lab, "a", "neigh", "replace", "10.0.0.2", "lladdr", f"02:00:00:00:00:{chance.randrange(256):02x}", "dev", "e0")
    time.sleep(0.01)
    ip(lab, "a", "neigh", "del", "10.0.0.2", "dev", "e0")


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def resets(lab, chance, _):
    """To both ends of each connection, with numbers that are guessed"""
    for there, to, here in ("b", "10.0.0.1", "10.0.0.2"), ("a", "10.0.0.2", "10.0.0.1"):
        with lab.on(there), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as s:
            for port in [n for n in lab.sockets("a") if n != PORT]:
                for _ in range(20):
                    ports = (PORT, port) if to.endswith("1") else (port, PORT)
                    tcp = struct.pack("!HHIIBBHHH", *ports, chance.randrange(1 << 32), chance.randrange(1 << 32),
                                      5 << 4, chance.choice((RST, RST | ACK)), 0, 0, 0)
                    pseudo = socket.inet_aton(here) + socket.inet_aton(to) + struct.pack("!BBH", 0, 6, len(tcp))
                    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
                    s.sendto(tcp, (to, 0))


def settings(lab, chance, _):
    lab.sysctl("a", tcp_rto_min=chance.choice((20, 500, 200_000)), tcp_linear_timeouts=chance.choice((0, 3)),
               tcp_limit_output_bytes=chance.choice((10_000, 4 << 20)))


# name: (how it begins, what is done again and again)
FAULTS = {
    "none": (None, None),
    "corruption": netem("delay", "50us", "corrupt", "2%"),
    "duplication": netem("delay", "50us", "duplicate", "10%"),
    "reordering": netem("delay", "300us", "reorder", "30%", "gap", "3"),
    "losses": netem("delay", "50us", "loss", "10%"),
    "bursts_of_losses": netem("delay", "50us", "loss", "gemodel", "2%", "20%", "90%", "0.1%"),
    "delays_that_vary": netem("delay", "500us", "400us", "25%"),
    "everything": netem("delay", "200us", "150us", "loss", "3%", "duplicate", "3%", "corrupt", "1%", "reorder", "10%"),
    "link_down": (None, link),
    "mtu": (None, mtu),
    "route": (None, route),
    "neighbour": (None, neighbour),
    "resets": (None, resets),
    "zero_windows": (None, None),
    "settings": (None, settings),
}


@case(*FAULTS)
def fault(lab, name):
    begin, again = FAULTS[name]
    chance = random.Random(name)
    lab.sysctl("a", tcp_rto_min=500)
    lab.sysctl("b", tcp_rto_min=500)
    streams = [Stream(n, c) for n, c in enumerate(lab.connections(STREAMS, ("10.0.0.2", PORT)))]
    before = lab.nstat("a")["TcpRetransSegs"]
    if begin:
        begin(lab)
    steps, sleeping = 0, set()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if again:
            again(lab, chance, steps)
        if name == "zero_windows" and steps % 10 == 0:
            sleeping = set(chance.sample(range(STREAMS), STREAMS // 2))
        stop = time.monotonic() + STEP
        while time.monotonic() < stop:
            for n, s in enumerate(streams):
                s.send(chance.choice((1, 1000, 20_000)))
                if n not in sleeping:
                    s.receive()
            time.sleep(0.001)
        steps += 1
    arrived = sum(s.received for s in streams)
    for host in "ab":
        ip(lab, host, "link", "set", "e0", "mtu", "1500")
        run("tc", "-n", host, "qdisc", "del", "dev", "e0", "root", check=False)
    ip(lab, "a", "route", "replace", "10.0.0.0/24", "dev", "e0")
    finish(streams, 600)
    resent = lab.nstat("a")["TcpRetransSegs"] - before
    print(f"# {name}: {steps} steps, {arrived} bytes meanwhile, {resent} segments sent again", flush=True)
    within("bytes meanwhile", arrived, 10_000, 10**12)
    for s in streams:
        s.connection.close()
    sockets_gone(lab)


if __name__ == "__main__":
    main()
