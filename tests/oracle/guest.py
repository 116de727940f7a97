#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""Plays scenarios inside a guest, and prints what happened: a line of JSON for each.

usage: guest.py MODE SEED[@PHASE]...

PHASE is how many us later than usual the scenario starts, to the timer wheel.
"""

import contextlib
import ctypes
import gc
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, ".."), os.path.join(HERE, "..", "sim")]
import scenario as scenarios  # noqa: E402
from host import IPPROTO_MPTCP, NUMBER, End, Host, Loop, options  # noqa: E402
from wire import RST, Packet, Wire, other  # noqa: E402

MS, S = 10**6, 10**9    # ns
# Every scenario starts at a multiple of this, so the timer wheel rounds alike in each.
GRID = (1 << 22) * MS
LEAD = 60 * S           # for what setting up has left behind
TICKS_PHASE = 137_003   # ns after a tick: nothing of the scenario's falls on one
DELETE_MODULE = {"x86_64": 176, "aarch64": 106, "riscv64": 106}
MOST = 60_000           # events of a scenario: more is a storm, and ends it


class Stage:
    """One scenario, from its start to when nothing is left"""

    def __init__(self, scenario, mode, phase_us):
        self.scenario, self.mode = scenario, mode
        self.loop = Loop()
        self.trace, self.ended, self.storm = [], False, False
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.hosts = {name: Host(name, self.home) for name in "ab"}
        connections = scenario["connections"]
        self.wire = Wire(scenario["rules"], {h: scenario["delay_us"][h] * 1000 for h in "ab"},
                         {c["port"]: c["name"] for c in connections})
        self.ends = {(c["name"], h): End(self, self.hosts[h], c) for c in connections for h in "ab"}
        self.phase = phase_us * 1000
        self.start = 0
        self.listeners = []
        self.leaver = None

    def note(self, host, connection, what, *more):
        """What a program does or sees"""
        self.trace.append([self.loop.instant - self.start, "app", host, connection, what, *more])

    def set_up(self):
        for name, host in self.hosts.items():
            host.sysctl(scenarios.ALWAYS | self.scenario["sysctl"][name])
            if self.mode in ("fast", "leave"):
                host.sysctl(scenarios.named(scenarios.FAST, self.scenario, self.mode))
            for words in self.scenario["commands"][name]:
                host.command(*words.split())
            self.loop.watch(host.tun, 0 if name == "a" else 1, lambda _, name=name: self.sends(name))
            self.loop.watch(host.diag.fileno(), 4, lambda _, name=name: self.destroyed(name))
        time.sleep(2)       # Addresses of IPv6 may be bound only after a while.
        for port in sorted({c["server_port"] for c in self.scenario["connections"]}):
            c = next(c for c in self.scenario["connections"] if c["server_port"] == port)
            with self.hosts["b"].here():
                s = socket.socket(socket.AF_INET6 if c["family"] == 6 else socket.AF_INET,
                                  socket.SOCK_STREAM, IPPROTO_MPTCP if c["kind"] == "mptcp" else 0)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            options(s, c["server_options"])
            # Subflows come to other addresses.
            s.bind(("::" if c["family"] == 6 else "0.0.0.0", port))
            s.listen(64)
            s.setblocking(False)
            self.loop.watch(s.fileno(), 2, lambda _, s=s: self.accept(s))
            self.listeners.append(s)

    def accept(self, listener):
        with contextlib.suppress(BlockingIOError):
            while True:
                s, address = listener.accept()
                name = self.wire.ports.get(address[1])
                end = self.ends.get((name, "b"))
                if end is None or end.over:
                    s.close()
                else:
                    end.accepted(s)

    def sends(self, name):
        """Host's packets come out of its device"""
        with contextlib.suppress(BlockingIOError):
            while True:
                raw = os.read(self.hosts[name].tun, 65536)
                now = self.loop.instant
                if not (raw[0] >> 4 == 4 and raw[9] == 6 or raw[0] >> 4 == 6 and raw[6] == 6):
                    continue
                packet = Packet(raw)
                flow, shape, fate, arrivals = self.wire.decide(name, packet, now - self.start)
                number = flow.number[name]
                self.trace.append([now - self.start, "sent", name, flow.name, number, shape, fate])
                for delay, raw in arrivals:
                    self.loop.at(now + delay, self.arrives, flow, name, packet, number, raw)
                if len(self.trace) > MOST:
                    self.storm = self.ended = True
                    return

    def arrives(self, flow, name, packet, number, raw):
        self.trace.append([self.loop.instant - self.start, "got", other(name), flow.name, number])
        self.wire.arrived(flow, name, packet if raw is packet.raw else Packet(raw))
        os.write(self.hosts[other(name)].tun, raw)

    def inject(self, what, name, host, kind):
        if what == "icmp":
            raw = self.wire.error(name, host, kind)
        else:
            raw = {"reset": self.wire.reset, "stranger": self.wire.stranger}[what](name, host)
        self.trace.append([self.loop.instant - self.start, "app", host, name, what, kind, bool(raw)])
        if raw:
            os.write(self.hosts[host].tun, raw)

    def destroyed(self, name):
        now = self.loop.instant - self.start
        for ports in self.hosts[name].destroyed():
            flow = next((f for f in self.wire.flows.values() if ports == f.ports[name]), None)
            if flow:
                self.trace.append([now, "gone", name, flow.name])

    def over(self, wait):
        """Is anything left? Looks at growing intervals, which are the same in every mode"""
        now = self.loop.instant
        left = {name: host.sockets() for name, host in self.hosts.items()}
        waits = self.mode == "leave" and not self.leaver
        if not any(left.values()) and not waits or now - self.start >= self.scenario["limit_s"] * S:
            self.ended = True
        else:
            wait = min(wait * 2, self.start + self.scenario["limit_s"] * S - now)
            self.loop.at(now + wait, self.over, wait)

    def leave(self):
        """Set back, and remove the module, which takes a while"""
        def work():
            done = ctypes.CDLL(None, use_errno=True).syscall(DELETE_MODULE[platform.machine()], b"finetcp", 0)
            if done < 0:
                self.failed = f"delete_module: errno {ctypes.get_errno()}"
            os.eventfd_write(told, 1)

        def left(_):
            self.loop.forget(told)
            self.leaver.join()
            self.trace.append([self.loop.instant - self.start, "app", "a", "", "left"])
        if self.scenario["leave"]["restore"]:
            for host in self.hosts.values():
                host.sysctl(scenarios.named(scenarios.RESTORED, self.scenario, self.mode))
        told = os.eventfd(0)
        self.loop.watch(told, 5, left)
        self.trace.append([self.loop.instant - self.start, "app", "a", "", "leaves"])
        self.leaver = threading.Thread(target=work)
        self.leaver.start()

    def play(self):
        self.failed = None
        self.set_up()
        self.start = (time.monotonic_ns() + LEAD) // GRID * GRID + GRID + self.phase + TICKS_PHASE
        self.loop.origin = self.start
        last = 0
        for c in self.scenario["connections"]:
            for host, script in ("a", c["client"]), ("b", c["server"]):
                for at, *what in script:
                    last = max(last, at)
                    self.loop.at(self.start + at * 1000, self.ends[c["name"], host].do, *what)
        for rule in self.scenario["inject"]:
            last = max(last, rule["at"])
            self.loop.at(self.start + rule["at"] * 1000, self.inject, rule["what"], rule["connection"], rule["to"],
                         rule.get("kind", ""))
        if self.mode == "leave":
            self.loop.at(self.start + self.scenario["leave"]["at"] * 1000, self.leave)
        self.loop.at(self.start + last * 1000 + S + 411_000, self.over, S)
        with self.bpf():
            self.loop.run(lambda: self.ended)
        if self.leaver:
            self.leaver.join()
        elif self.mode == "leave":
            self.failed = "ended before the module left"
        return {"trace": self.trace, "storm": self.storm, "failed": self.failed,
                "counters": {name: host.counters() for name, host in self.hosts.items()},
                "left": {name: host.sockets() for name, host in self.hosts.items()}}

    def bpf(self):
        if "bpf_timeout_init" not in self.scenario:
            return contextlib.nullcontext()
        from bpf import TIMEOUT_INIT, attached, reply  # noqa: PLC0415, needs what few scenarios do
        return attached(TIMEOUT_INIT, reply(self.scenario["bpf_timeout_init"]))

    def close(self):
        for end in self.ends.values():
            if end.socket:
                end.socket.close()
        for s in self.listeners:
            s.close()
        for host in self.hosts.values():
            host.close()
        self.loop.close()
        os.close(self.home)


def main():
    mode, *played = sys.argv[1:]
    gc.disable()
    # Only then may a namespace have one of the others.
    with open("/proc/sys/net/ipv4/tcp_available_congestion_control", encoding="ascii") as f:
        Host.set(net__ipv4__tcp_allowed_congestion_control=f.read())
    out = os.fdopen(os.dup(1), "w")
    for seed, _, phase in (text.partition("@") for text in played):
        seed, phase = int(seed), int(phase or 0)
        if mode == "leave":
            subprocess.run(["insmod", os.environ["FINETCP_KO"]], check=True)
        stage = None
        try:
            stage = Stage(scenarios.make(seed), mode, phase)
            found = stage.play()
        except Exception:  # pylint: disable=broad-except
            found = {"failed": traceback.format_exc()}
        finally:
            if stage:
                stage.close()
        del stage
        gc.collect()
        if mode == "leave" and os.path.exists("/sys/module/finetcp"):
            subprocess.run(["rmmod", "finetcp"], check=True)
        print(json.dumps({"seed": seed, "mode": mode, "phase": phase, **found}), file=out, flush=True)


if __name__ == "__main__":
    main()
