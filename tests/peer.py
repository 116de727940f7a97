# SPDX-License-Identifier: GPL-2.0
"""A TCP peer of host a's that is not a kernel's: it sees each packet and sends what it likes, behind a
TUN device. On the virtual clock whatever comes and goes has the time of the microsecond it belongs to."""

import contextlib
import fcntl
import heapq
import os
import select
import socket
import struct
import time

from lab import near, run

ADDRESS = "10.9.0.2"            # the peer's
PORT = 7000
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
IFF_TUN, IFF_NO_PI, TUNSETIFF = 1, 0x1000, 0x400454ca
MSS = 1000
MODULUS = 1 << 32
START = 1_000_000               # the first sequence number of the peer's


def now_us():
    return time.monotonic_ns() / 1000


def ahead(a, b):
    """By how much the sequence number a is ahead of b; negative if it is behind"""
    return (a - b + MODULUS // 2) % MODULUS - MODULUS // 2


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Segment:
    """One that host a has sent"""

    def __init__(self, packet, at):
        tcp = (packet[0] & 15) * 4
        self.at = at
        self.port, self.to, self.seq, self.ack, offset, self.flags, self.window = struct.unpack_from("!HHIIBBH", packet, tcp)
        self.data = packet[tcp + (offset >> 4) * 4:]
        self.options = packet[tcp + 20:tcp + (offset >> 4) * 4]

    def time_stamp(self):
        """Its time stamp; none if it has none"""
        where = self.options.find(b"\x08\x0a")
        return struct.unpack_from("!I", self.options, where + 2)[0] if where >= 0 else None


class Peer:
    """Connected to a socket of host a's, which is in self.socket. Numbers count from the first byte of
    data that a sends."""

    def __init__(self, lab, rtt_us=50, sack=True, time_stamps=False, window=60_000, prepare=None):
        self.lab = lab
        self.rtt_us = rtt_us
        self.sack = sack
        self.time_stamps = time_stamps
        self.mss = MSS - (12 if time_stamps else 0)     # data of a full segment
        self.window = window
        self.prepare = prepare or (lambda s: None)
        self.planned = []       # (when, order, what to send)
        self.order = 0
        self.sent = 0           # packets to a, and from there
        self.received = 0

    def __enter__(self):
        with self.lab.on("a"):
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22x", b"peer", IFF_TUN | IFF_NO_PI))
            self.socket = socket.socket()
        run("ip", "-n", "a", "addr", "add", "10.9.0.1/24", "dev", "peer")
        run("ip", "-n", "a", "link", "set", "peer", "up", "txqueuelen", "10000")
        self.prepare(self.socket)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.socket.connect((ADDRESS, PORT))
        syn = self.next(1_000_000)
        near("flags of the first segment", syn.flags, SYN, 0)
        self.port, self.first = syn.port, (syn.seq + 1) % MODULUS
        options = struct.pack("!BBH", 2, 4, MSS) + (b"\4\2\1\1" if self.sack else b"")
        self.later(self.rtt_us, lambda: self.send(0, flags=SYN | ACK, seq=-1, options=options, echo=syn.time_stamp()))
        # A timeout that is set shorter than the round trip sends SYNs again.
        answer = syn
        while answer.flags == SYN:
            answer = self.next(1_000_000)
        near("flags of the answer", answer.flags, ACK, 0)
        return self

    def __exit__(self, *_):
        # Abort: the next one would meet what is sent again, for it has the same address.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        os.close(self.tun)

    def write(self, data):
        """Let the owner of a's socket write that, and return how much it took"""
        with contextlib.suppress(BlockingIOError):
            return self.socket.send(data)
        return 0

    def next(self, wait_us):
        """What a sends next within that time; none: nothing. What is planned is sent meanwhile"""
        until = now_us() + wait_us
        while True:
            with contextlib.suppress(BlockingIOError):
                packet = os.read(self.tun, 65536)
                if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP:
                    self.received += 1
                    return Segment(packet, now_us())
                continue
            now = now_us()
            if self.planned and self.planned[0][0] <= now:
                heapq.heappop(self.planned)[2]()
                continue
            if now >= until:
                return None
            wake = min([until] + [when for when, _, _ in self.planned[:1]])
            # epoll() and its relatives round to milliseconds or a slack; select() asks for what it gets
            select.select([self.tun], [], [], max(wake - now, 1) / 10**6)

    def all(self, wait_us):
        """All that a sends within that time"""
        until, found = now_us() + wait_us, []
        while segment := self.next(until - now_us()):
            found.append(segment)
        return found

    def later(self, us, send):
        """Call that so much later, while somebody waits for what a sends"""
        self.order += 1
        heapq.heappush(self.planned, (now_us() + us, self.order, send))

    def send(self, ack, window=None, flags=ACK, seq=0, sacked=(), options=b"", echo=None, data=b""):
        """Send a segment: acknowledge what is before ack, and the ranges"""
        if self.time_stamps:
            options += struct.pack("!BBBBII", 1, 1, 8, 10, int(now_us() / 1000) + 1000, echo or 0)
        if sacked:
            options += struct.pack("!BBBB", 1, 1, 5, 2 + 8 * len(sacked))
            for begin, end in sacked:
                options += struct.pack("!II", (self.first + begin) % MODULUS, (self.first + end) % MODULUS)
        self.raw(PORT, self.port, START + seq, self.first + ack, flags, self.window if window is None else window,
                 options, data)

    def raw(self, port, to_port, seq, ack=0, flags=ACK, window=60_000, options=b"", data=b"", to="10.9.0.1"):
        """Send any segment to an address of host a's"""
        tcp = struct.pack("!HHIIBBHHH", port, to_port, seq % MODULUS, ack % MODULUS,
                          (5 + len(options) // 4) << 4, flags, window, 0, 0) + options + data
        addresses = socket.inet_aton(ADDRESS) + socket.inet_aton(to)
        pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
        os.write(self.tun, ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp)
        self.sent += 1

    def place(self, segment):
        """Where the segment's data begins"""
        return ahead(segment.seq, self.first)

    def info(self):
        """(RTO, smoothed RTT) of a's socket in us"""
        data = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return struct.unpack_from("=I", data, 8)[0], struct.unpack_from("=I", data, 68)[0]

    def exchange(self, times=30):
        """Segments that are acknowledged after the round trip, until a knows it. Returns the bytes sent"""
        done = 0
        for _ in range(times):
            self.write(b"x" * self.mss)
            segment = self.next(1_000_000)
            done = self.place(segment) + len(segment.data)
            self.later(self.rtt_us, lambda: self.send(done))
            near("segments until the acknowledgement", len(self.all(self.rtt_us + 10)), 0, 0)
        return done
