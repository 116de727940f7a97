#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# soak: sim --kernel patched --no-module
# soak: vm --kernel patched --smp 2 --one-thread --no-module
# soak: vm --kernel debug --smp 2 --one-thread --no-module
"""All of it at once: under connections that move data, the module comes and goes, networks fail, settings
change, connections and namespaces come and go, peers lie and tenants attack, in an order that the seed
decides. In the end nothing may be left of it: no byte missing, no socket, namespace, device, or memory.

MINUTES says for how long ("make soak" does), SEED in which order."""

import collections
import contextlib
import os
import random
import socket
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path += [os.path.join(HERE, ".."), os.path.join(HERE, "..", "sim")]
import faults  # noqa: E402
import hostile  # noqa: E402
import settings  # noqa: E402
import tenant  # noqa: E402
from hogs import Hogs, Reader, Writer  # noqa: E402
from lab import SEGMENT, case, insmod, main, near, rmmod, run, within  # noqa: E402
from peer import Peer  # noqa: E402
from streams import Stream, finish, settled  # noqa: E402

MINUTES = float(os.environ.get("MINUTES", 1))
SEED = int(os.environ.get("SEED", 1))
STREAMS = 20
PORT = 6000             # of the connections that live through it, as faults.py has it
STEP = 0.05             # seconds between two acts
# Options by which a connection is given up that has waited for long: between two links of different MTU, a
# timeout doubles until it is minutes. With 100 retries at most 5 s apart, it lasts for 486 s (tcp_model_timeout()).
ENDS = socket.TCP_USER_TIMEOUT, settings.TCP_RTO_MAX_MS


class Soak:
    def __init__(self, lab):
        self.lab = lab
        self.chance = random.Random(SEED)
        self.loaded = False
        self.tried = collections.Counter()
        self.streams = []

    # What may happen. The first line of each says it

    def module(self):
        """the module is loaded, or unloaded"""
        rmmod() if self.loaded else insmod()
        self.loaded = not self.loaded

    def network(self):
        """a network begins to fail, or fails otherwise"""
        name = self.chance.choice([name for name, (begin, _) in faults.FAULTS.items() if begin])
        faults.FAULTS[name][0](self.lab)

    def change(self):
        """links, sizes, routes and neighbours change, resets are guessed"""
        name = self.chance.choice([name for name, (_, again) in faults.FAULTS.items() if again and name != "settings"])
        faults.FAULTS[name][1](self.lab, self.chance, 0)

    def setting(self):
        """a setting is written, right or wrong"""
        if self.loaded and self.chance.random() < 0.7:
            settings.write_ours(self.lab, self.chance, self.chance.choice(list(settings.OURS)))
        else:
            settings.write_kernels(self.lab, self.chance, self.chance.choice(list(settings.KERNELS)))

    def option(self):
        """a socket option is written"""
        s = self.chance.choice(self.streams)
        level, name = self.chance.choice([key for key in settings.OPTIONS if key[1] not in ENDS])
        with contextlib.suppress(OSError):
            self.chance.choice((s.connection.a, s.connection.b)).setsockopt(
                level, name, self.chance.choice(settings.OPTIONS[level, name]))

    def visitor(self):
        """connections come, send into a network that fails, and are closed or aborted"""
        with self.lab.on("b"), socket.create_server(("10.0.0.2", PORT + 1)) as listener:
            listener.settimeout(0.05)
            with self.lab.on("a"):
                opened = [socket.socket() for _ in range(5)]
            for s in opened:
                s.setblocking(False)
                s.connect_ex(("10.0.0.2", PORT + 1))
            with contextlib.suppress(OSError):
                for _ in opened:
                    opened.append(listener.accept()[0])
        for s in opened:
            with contextlib.suppress(OSError):
                s.setblocking(False)
                s.send(b"x" * self.chance.choice((1, SEGMENT, 100_000)))
            if self.chance.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.close()

    def namespace(self):
        """a namespace goes whose connections have timers"""
        if not (child := os.fork()):
            os.unshare(os.CLONE_NEWNET)
            run("ip", "link", "set", "lo", "up")
            for name, value in ("tcp_rto_min_us", 1000), ("tcp_orphan_retries", 1):
                with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as f:
                    f.write(str(value))
            listener = socket.create_server(("127.0.0.1", PORT))
            opened = [(socket.create_connection(("127.0.0.1", PORT)), listener.accept()[0]) for _ in range(3)]
            run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "loss", "100%")
            for s, _ in opened:
                s.send(b"x" * 2 * SEGMENT)
            os._exit(0)
        near("exit status", os.waitpid(child, 0)[1], 0, 0)
        if self.chance.random() < 0.5:
            self.module()

    def liar(self):
        """a peer floods a connection with forgeries"""
        forge = self.chance.choice(list(hostile.FORGERIES.values()))
        with Peer(self.lab) as peer:
            peer.write(b"x" * SEGMENT)
            peer.next(1000)
            for n in range(100):
                peer.later(n * 10, lambda n=n: forge(peer, 0, n))
            peer.all(2000)

    def attacker(self):
        """a tenant's device takes nothing, and his timeouts are the shortest"""
        if self.loaded:
            tenant.check_silence(self.chance.choice(list(tenant.OBSTACLES)), seconds=0.3, count=5, least=1)

    def receiver(self):
        """a receiver shares its processor with others, and may have extra runs when the module goes"""
        if self.loaded:
            self.lab.sysctl("b", tcp_extra_run=self.chance.choice((0, 100, 3000)))
        with self.lab.on("b"), socket.create_server(("127.0.0.1", PORT + 2)) as listener:
            sender = socket.create_connection(("127.0.0.1", PORT + 2))
            with Reader(listener.accept()[0]), Writer(sender), Hogs(2):
                time.sleep(0.3)
                if self.chance.random() < 0.5:
                    self.module()
                    time.sleep(0.1)

    def looker(self):
        """somebody looks at all sockets and counters"""
        run("ip", "netns", "exec", self.chance.choice("ab"), "ss", "-tinoe")
        self.lab.sockets("a")
        if self.loaded:
            self.lab.stat()

    ACTS = (module, network, change, setting, option, visitor, namespace, liar, attacker, looker)
    if not settings.VIRTUAL:    # whose clock stands still while somebody never sleeps
        ACTS += (receiver,)

    # Its course

    def move(self):
        """The connections that live through it"""
        until = time.monotonic() + STEP
        while time.monotonic() < until:
            for s in self.streams:
                s.send(self.chance.choice((1, 1000, 5000)))
                s.receive()
            time.sleep(0.002)

    def heal(self):
        for host in "ab":
            run("ip", "-n", host, "link", "set", "e0", "up", "mtu", "1500")
            run("tc", "-n", host, "qdisc", "del", "dev", "e0", "root", check=False)
        run("ip", "-n", "a", "route", "replace", "10.0.0.0/24", "dev", "e0")

    def run(self, seconds):
        lab = self.lab
        self.streams = [Stream(n, c) for n, c in enumerate(lab.connections(STREAMS, ("10.0.0.2", PORT)))]
        for stream in self.streams:
            for end in stream.connection.a, stream.connection.b:
                end.setsockopt(socket.IPPROTO_TCP, settings.TCP_RTO_MAX_MS, 5000)
        begin, minutes = time.monotonic(), 0
        while time.monotonic() < begin + seconds:
            if time.monotonic() >= begin + 60 * (minutes + 1):
                minutes += 1
                print(f"# minute {minutes} of {seconds / 60:g}, {sum(self.tried.values())} acts", flush=True)
            act = self.chance.choice(self.ACTS)
            self.tried[act] += 1
            try:
                act(self)
                self.move()
            except Exception as error:
                raise AssertionError(f"SEED={SEED}, {sum(self.tried.values())} acts, the last: {act.__doc__}: "
                                     f"{error!r}") from error
        self.heal()
        finish(self.streams, 600)
        for s in self.streams:
            s.connection.close()
        for host in "ab":
            # What was closed in order may wait for minutes, as the settings were.
            run("ip", "netns", "exec", host, "ss", "-K", "-t", check=False)
        if self.loaded:
            self.module()


def devices():
    return sorted(os.listdir("/sys/class/net"))


@case
def soak(lab):
    print(f"# SEED={SEED}, {MINUTES:g} minutes", flush=True)
    for host in "ab":
        # see ENDS
        lab.sysctl(host, tcp_fin_timeout=1, tcp_orphan_retries=2, tcp_retries2=100)
    # What a first time leaves behind, it leaves once.
    Soak(lab).run(5)
    before, namespaces = settled(lab), os.listdir("/run/netns")
    devices_before = devices()
    s = Soak(lab)
    s.run(60 * MINUTES)
    arrived = sum(stream.received for stream in s.streams)
    print(f"# {arrived} bytes over {STREAMS} connections, each of them right; meanwhile")
    for act, count in s.tried.items():
        print(f"# {count:6} times: {act.__doc__}", flush=True)
    within("bytes", arrived, STREAMS * 1000, 10**13)
    near("bytes more in slabs", settled(lab) - before, 0, 1 << 20)
    assert os.listdir("/run/netns") == namespaces, os.listdir("/run/netns")
    assert devices() == devices_before, devices()
    assert not os.path.exists("/sys/module/finetcp"), "the module is still there"


if __name__ == "__main__":
    with open("/sys/module/kunit/parameters/filter_glob", "w", encoding="ascii") as suites:
        suites.write("none")
    main()
