# SPDX-License-Identifier: GPL-2.0
"""Two hosts in a guest and the wire between them, for the cases that measure.

Host a sends at once, what b sends takes a round trip: so nothing of a's waits
in a queue of its own. A segment that a sends with the type of service LOST does
not arrive at b; the sender marks it just for one send, and need not hurry to
arm or disarm anything.

A test is a file of functions marked @case, and ends with main(). It prints
KTAP. Names are function__case, as everywhere here.
"""

import contextlib
import errno
import hashlib
import inspect
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

LOST = 0x20             # an IPv4 type of service, or an IPv6 traffic class
SEGMENT = 1000          # bytes
TICK = 1000             # us
PORT = 5000
ADDRESS = "10.0.0.2", PORT      # of b
SO_TIMESTAMPNS = 35
SO_MEMINFO = 55
SK_MEMINFO_WMEM_ALLOC = 2
IPPROTO_MPTCP = 262
TRACING = "/sys/kernel/tracing"
SLOW = os.environ.get("FINETCP_KERNEL") in ("debug", "kcsan")   # a kernel that looks at each access to memory

_cases = []


def case(*values):
    """Run the function once, or once with each of the values"""
    def mark(function):
        for value in values:
            _cases.append((f"{function.__name__}__{value}", function, (value,)))
        return function
    if len(values) == 1 and inspect.isfunction(values[0]):
        _cases.append((values[0].__name__, values[0], ()))
        return values[0]
    return mark


class Skip(Exception):
    pass


def main():
    # Not those of a file that another imports
    cases = [mine for mine in _cases if mine[1].__module__ == "__main__"]
    print("KTAP version 1")
    print(f"1..{len(cases)}", flush=True)
    failed = 0
    for number, (name, function, args) in enumerate(cases, 1):
        verdict, more = "ok", ""
        try:
            with Lab() as lab:
                function(lab, *args)
        except Skip as reason:
            more = f" # SKIP {reason}"
        except Exception as error:
            failed += 1
            verdict = "not ok"
            print("# " + (str(error) or repr(error)).replace("\n", "\n# "))
            for frame in traceback.extract_tb(error.__traceback__)[1:]:
                print(f"#   {os.path.basename(frame.filename)}:{frame.lineno}: {frame.line}")
        print(f"{verdict} {number} {name}{more}", flush=True)
    sys.exit(failed > 0)


def run(*command, check=True):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stdout.strip()}")
    return done.stdout


def insmod(*parameters):
    """Load finetcp: afresh, if a case that failed has left it there"""
    run("rmmod", "finetcp", check=False)
    run("insmod", os.environ["FINETCP_KO"], *parameters)


def rmmod():
    run("rmmod", "finetcp")


def tracing(name, text):
    """Write to a file of tracefs"""
    with open(f"{TRACING}/{name}", "w", encoding="ascii") as f:
        f.write(text)


def near(what, got, want, tolerance=5):
    """Microseconds, or whatever else"""
    if abs(got - want) > tolerance:
        raise AssertionError(f"{what}: {got:g}, not {want:g} (+-{tolerance})")


def within(what, got, least, most):
    if not least <= got <= most:
        raise AssertionError(f"{what}: {got:g}, not {least:g} to {most:g}")


def waits(rto, rtt, linear=0, most=10**9):
    """Without end, how long a waits each time for what nobody acknowledges: early timeouts, then what is left
    until the kernel's own one, which has a minimum of 200 ms, and from there on that, doubled each time"""
    own = rtt + 200_000
    kernel = -(-own // TICK) * TICK
    early, passed, at_most = [rto], 0, 0
    while early[-1] + TICK < kernel and rto + rtt <= kernel:
        yield early[-1]
        passed += early[-1]
        at_most += early[-1] == most
        wait = early[-1] if len(early) <= linear else 2 * early[-1]
        if sum(early) < 200_000 and at_most < 32:
            wait = min(wait, most)
        if passed + wait + rto > kernel or wait + TICK >= kernel:
            break
        early.append(wait)
    yield kernel - passed if passed else own
    while True:
        own *= 2
        yield own


def check_waits(gaps, wanted, at_most=1_000_000):
    """To the microsecond up to a second; beyond, the timer wheel may round up"""
    for n, (gap, want) in enumerate(zip(gaps, wanted)):
        if want <= at_most:
            # What is left of a wait makes good for each that was late.
            near(f"retransmission {n + 1}", gap, want, 10 + n / 2)
        else:
            within(f"retransmission {n + 1}", gap, want - 10, want * 9 / 8 + 2 * TICK)


def set_tos(s, value):
    """From now on the socket sends with this type of service"""
    if s.family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, value)
    else:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, value)


class Lab:
    """Two network namespaces with a round trip of rtt_us"""

    def __init__(self, rtt_us=50):
        self.rtt_us = rtt_us
        self.met = set()
        self.home = None

    def __enter__(self):
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        for host in "a", "b":
            run("ip", "netns", "add", host)
        run("ip", "-n", "a", "link", "add", "e0", "type", "veth", "peer", "name", "e0", "netns", "b")
        for host, n in ("a", 1), ("b", 2):
            run("ip", "-n", host, "addr", "add", f"10.0.0.{n}/24", "dev", "e0")
            run("ip", "-n", host, "addr", "add", f"fd00::{n}/64", "dev", "e0", "nodad")
            for device in "e0", "lo":
                run("ip", "-n", host, "link", "set", device, "up")
            # Every write is a segment of its own, of which nothing is remembered.
            self.sysctl(host, tcp_autocorking=0, tcp_no_metrics_save=1)
        self.delay(self.rtt_us)
        run("tc", "-n", "b", "qdisc", "add", "dev", "e0", "ingress")
        for protocol, match in ("ip", "ip dsfield"), ("ipv6", "ip6 priority"):
            run("tc", "-n", "b", "filter", "add", "dev", "e0", "ingress", "protocol", protocol,
                "u32", "match", *match.split(), hex(LOST), "0xfc", "action", "drop")
        return self

    def __exit__(self, *_):
        for host in "a", "b":
            run("ip", "netns", "del", host)
        os.close(self.home)

    def delay(self, us):
        """Set the round-trip time"""
        run("tc", "-n", "b", "qdisc", "replace", "dev", "e0", "root", "netem", "delay", f"{us}us", "limit", "10000")

    def slow(self, mbit, qdisc="fq_codel"):
        """From now on a's device takes its time; what waits for it stands in the qdisc"""
        run("tc", "-n", "a", "qdisc", "replace", "dev", "e0", "root", "handle", "1:", "tbf",
            "rate", f"{mbit}mbit", "burst", "128kb", "limit", "100mb")
        run("tc", "-n", "a", "qdisc", "replace", "dev", "e0", "parent", "1:1", qdisc)

    def lossy(self, percent):
        """From now on that much of what a sends is lost, at random. For connections to come: each
        segment must be a packet of its own, or netem sees few of them"""
        run("ip", "-n", "a", "link", "set", "e0", "gso_max_segs", "1")
        run("tc", "-n", "a", "qdisc", "replace", "dev", "e0", "root", "netem", "loss", f"{percent}%", "limit", "10000")

    @contextlib.contextmanager
    def on(self, host):
        """What is opened within belongs to the host"""
        there = os.open(f"/run/netns/{host}", os.O_RDONLY)
        os.setns(there, os.CLONE_NEWNET)
        os.close(there)
        try:
            yield
        finally:
            os.setns(self.home, os.CLONE_NEWNET)

    def sysctl(self, host, **values):
        with self.on(host):
            for name, value in values.items():
                with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as f:
                    f.write(str(value))

    def read(self, host, name):
        """A setting as it reads"""
        with self.on(host), open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as f:
            return f.read().strip()

    def refuses(self, host, name, value):
        """The setting takes no such value, says why, and stays as it was"""
        before = self.read(host, name)
        try:
            self.sysctl(host, **{name: value})
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            raise AssertionError(f"{name} took {value}")
        if self.read(host, name) != before:
            raise AssertionError(f"{name} was {before}, and is {self.read(host, name)} now")

    def stat(self, host="a"):
        """finetcp's counters"""
        with self.on(host), open("/proc/net/finetcp_stat", encoding="ascii") as f:
            return {name: int(value) for name, value in map(str.split, f)}

    def nstat(self, host):
        """The kernel's counters, by the names of nstat"""
        found = {}
        with self.on(host):
            for name in "snmp", "netstat":
                with open(f"/proc/net/{name}", encoding="ascii") as f:
                    for names, values in zip(*[map(str.split, f)] * 2):
                        prefix = names[0].rstrip(":")
                        found.update((prefix + n, int(v)) for n, v in zip(names[1:], values[1:]))
        return found

    def sockets(self, host):
        """IPv4's TCP sockets, each by its local port: the words of its line in /proc/net/tcp"""
        with self.on(host), open("/proc/net/tcp", encoding="ascii") as f:
            rows = [line.split() for line in f][1:]
        return {int(row[1].split(":")[1], 16): row for row in rows}

    def capture(self, empty=False, incoming=False, stamps=False):
        with self.on("a"):
            return Capture(empty, incoming, stamps)

    def stamp(self):
        """From now on connections have time stamps in us: the sender's clock as TCP has looked at it"""
        for host, n in ("a", 1), ("b", 2):
            run("ip", "-n", host, "route", "replace", "10.0.0.0/24", "dev", "e0", "proto", "kernel", "scope", "link",
                "src", f"10.0.0.{n}", "features", "tcp_usec_ts")

    def ack_delay(self, connection, segments=1, meanwhile=None):
        """The time in us until b acknowledges what it has received and not answered. Meanwhile, after
        20 ms, something may be done"""
        wire = self.capture(empty=True, incoming=True)
        sent = time.time() * 10**6
        connection.send(segments)
        connection.receive(segments)
        sleep_us(20_000)
        if meanwhile:
            meanwhile()
        sleep_us(80_000)
        ((acknowledged, _, _),) = wire.segments()
        return acknowledged - sent

    def meet(self):
        """Or the first SYN waits for ARP"""
        self.connect().close()

    def connecting(self, lost):
        """A socket of a that has sent its SYN to b"""
        with self.on("a"):
            s = socket.socket()
        set_tos(s, LOST if lost else 0)
        s.setblocking(False)
        near("connect()'s error", s.connect_ex(ADDRESS), errno.EINPROGRESS, 0)
        return s

    def connections(self, count, address, family=socket.AF_INET, protocol=0):
        """Connections from a to an address of b, fresh from the handshake"""
        made = []
        with self.on("b"), socket.socket(family, socket.SOCK_STREAM, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
            with self.on("a"):
                for _ in range(count):
                    a = socket.socket(family, socket.SOCK_STREAM, protocol)
                    a.connect(address)
                    made.append(Connection(a, listener.accept()[0]))
        return made

    def connect(self, family=socket.AF_INET, protocol=0, exchanges=30):
        """A connection from a to b whose round-trip time is well known to a"""
        address = ("fd00::2", PORT) if family == socket.AF_INET6 else ADDRESS
        (connection,) = self.connections(1, address, family, protocol)
        if family not in self.met:
            # The first one has waited for the link and for its neighbour.
            self.met.add(family)
            connection.close()
            return self.connect(family, protocol, exchanges)
        connection.exchange(exchanges)
        return connection


class Connection:
    def __init__(self, a, b):
        self.a, self.b = a, b
        for s in a, b:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Abort: nothing is retransmitted that would disturb the next case"""
        for s in self.a, self.b:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.a.close()
        self.b.close()

    def exchange(self, times=1):
        """Requests with answers: each acknowledgement comes at once"""
        for _ in range(times):
            self.send()
            self.receive()
            self.b.sendall(b"y")
            if self.a.recv(1) != b"y":
                raise AssertionError("the connection broke")

    def send(self, segments=1):
        for _ in range(segments):
            self.a.sendall(b"x" * SEGMENT)

    def fill(self):
        """Send until b's window is closed and nothing more fits into the queue"""
        self.a.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.send()

    def receive(self, segments=1):
        left = segments * SEGMENT
        while left:
            got = len(self.b.recv(left))
            if not got:
                raise AssertionError("the connection broke")
            left -= got

    def transfer(self, size):
        """Send that many bytes and see that the same arrive"""
        data = random.Random(size).randbytes(size)
        arrived = hashlib.sha256()
        sender = threading.Thread(target=self.a.sendall, args=(data,))
        sender.start()
        while size:
            some = self.b.recv(1 << 18)
            if not some:
                raise AssertionError(f"the connection broke with {size} bytes to go")
            size -= len(some)
            arrived.update(some)
        sender.join()
        if arrived.digest() != hashlib.sha256(data).digest():
            raise AssertionError("other bytes arrived")

    def lose(self, lost=True):
        """From now on b gets nothing of what a sends"""
        set_tos(self.a, LOST if lost else 0)

    def recover(self):
        """b gets what a sends, and so the segment that was lost"""
        self.lose(False)
        self.receive()

    def lose_one(self, wire, us, meanwhile=None, more_us=0):
        """From now on all is lost; send a segment. The gaps in us between it and what is sent again
        within that time, and more if something is done meanwhile"""
        self.lose()
        wire.segments()
        self.send()
        sleep_us(us)
        if meanwhile:
            meanwhile()
            sleep_us(more_us)
        return wire.gaps()

    def info(self):
        """(RTO, smoothed RTT) of a in us"""
        data = self.a.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return struct.unpack_from("=I", data, 8)[0], struct.unpack_from("=I", data, 68)[0]

    def acked(self):
        """Bytes of a's that have arrived"""
        data = self.a.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        return struct.unpack_from("=Q", data, 120)[0]

    def queued(self):
        """Bytes (truesize) of a's in qdisc and device"""
        data = self.a.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
        return struct.unpack_from("=I", data, 4 * SK_MEMINFO_WMEM_ALLOC)[0]

    def retransmitted(self):
        """Segments that a has sent again"""
        data = self.a.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return struct.unpack_from("=I", data, 100)[0]


class Bulk:
    """A connection whose a sends without end, and whose b reads"""

    def __init__(self, lab, address=("10.0.0.2", 6000)):
        (self.connection,) = lab.connections(1, address)
        self.acked, self.queued, self.info = self.connection.acked, self.connection.queued, self.connection.info
        self.ended = False
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.ended = True
        for thread in self.threads:
            thread.join()
        self.connection.close()

    def send(self):
        data = bytes(1 << 18)
        while not self.ended:
            self.connection.a.sendall(data)
        self.connection.a.shutdown(socket.SHUT_WR)

    def receive(self):
        buffer = bytearray(1 << 20)
        while self.connection.b.recv_into(buffer):
            pass


class Capture:
    """The segments with data that leave a host; or that come; or those without data too. With their time
    stamps instead of the time when they pass the device, which an interrupt before makes later"""

    def __init__(self, empty, incoming, stamps):
        self.empty = empty
        self.stamps = stamps
        self.incoming = incoming
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("e0", 3))

    def segments(self):
        """[(time in us, sequence number, length)] since the last call"""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, extra, _, address = self.socket.recvmsg(2048, 256, socket.MSG_DONTWAIT)
                if (address[2] != socket.PACKET_OUTGOING) != self.incoming:
                    continue
                if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
                    tcp, end = 14 + (frame[14] & 15) * 4, 14 + int.from_bytes(frame[16:18], "big")
                elif frame[12:14] == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP:
                    tcp, end = 54, 54 + int.from_bytes(frame[18:20], "big")
                else:
                    continue
                length = end - tcp - (frame[tcp + 12] >> 4) * 4
                if length or self.empty:
                    if self.stamps:
                        at = int.from_bytes(frame[tcp + 24:tcp + 28], "big")    # after two NOPs, kind and length
                    else:
                        seconds, ns = struct.unpack("=qq", extra[0][2])
                        at = seconds * 10**6 + ns / 1000
                    found.append((at, int.from_bytes(frame[tcp + 4:tcp + 8], "big"), length))
        return found

    def gaps(self):
        """The times in us between them"""
        times = [t for t, _, _ in self.segments()]
        return [later - earlier for earlier, later in zip(times, times[1:])]


def sleep_us(us):
    time.sleep(us / 10**6)
