# SPDX-License-Identifier: GPL-2.0
"""A host: a network namespace with a TUN device, and the programs that use its sockets.

All of that is one thread of one process, which waits in one place (Loop). On the virtual clock,
what happens at the same time then happens in the same order, in every run.
"""

import contextlib
import errno
import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import time

IPPROTO_MPTCP = 262
SAME = 3000             # ns without waiting
ROUND = 1000            # ns
SIOCSIFADDR, SIOCSIFFLAGS, SIOCSIFNETMASK, SIOCSIFMTU, SIOCGIFINDEX = 0x8916, 0x8914, 0x891c, 0x8922, 0x8933
SIOCSIFTXQLEN = 0x8943
IFF_UP, IFF_TUN, IFF_NO_PI, TUNSETIFF = 1, 1, 0x1000, 0x400454ca
NETLINK_SOCK_DIAG, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 4, 270, 1
TCP_DESTROY, TCP6_DESTROY = 1, 3
MSG_FASTOPEN = 0x20000000
TCP_INFO, TCP_FASTOPEN = 11, 23
NUMBER = {"a": 1, "b": 2}
DEVICE = "wire0"
FACTOR = 251            # the period of what is sent
PATTERN = bytes(range(FACTOR)) * 1100
PIECE = 1 << 16
INFO = {"state": ("B", 0), "retransmits": ("B", 2), "probes": ("B", 3), "backoff": ("B", 4), "options": ("B", 5),
        "rto": ("I", 8), "ato": ("I", 12), "snd_mss": ("I", 16), "unacked": ("I", 24), "lost": ("I", 32),
        "rtt": ("I", 68), "ssthresh": ("I", 76), "cwnd": ("I", 80), "total_retrans": ("I", 100)}


def pattern(begin, size):
    """What the bytes of a stream are, from there on"""
    begin %= FACTOR
    return PATTERN[begin:begin + size]


class Loop:
    """Waits for file descriptors and times; nothing else waits.

    Each look at the clock takes the guest 256 ns. That must not add up, or decide what comes first.
    So an instant lasts until something has waited: all that follows from an event has its time.
    """

    def __init__(self):
        self.epoll = select.epoll()
        self.timer = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK)
        self.epoll.register(self.timer, select.EPOLLIN)
        self.handlers = {}              # (rank, function), by file descriptor
        self.planned, self.order = [], 0
        self.instant = self.origin = 0

    def watch(self, fd, rank, function, events=select.EPOLLIN):
        self.handlers[fd] = rank, function
        self.epoll.register(fd, events)

    def forget(self, fd):
        if self.handlers.pop(fd, None):
            self.epoll.unregister(fd)

    def at(self, when, function, *args):
        self.order += 1
        heapq.heappush(self.planned, (when, self.order, function, args))

    def drain(self, ready):
        """Call the handlers of what is ready, and of what is ready after that, until nothing is"""
        while True:
            # The timer's turn comes last.
            ready = sorted((self.handlers[fd][0], fd, events) for fd, events in ready if fd in self.handlers)
            if not ready:
                return
            for _, fd, events in ready:
                if fd in self.handlers:
                    self.handlers[fd][1](events)
            ready = self.epoll.poll(0)

    def run(self, done):
        last = 0
        while not done():
            if self.planned:
                os.timerfd_settime_ns(self.timer, flags=os.TFD_TIMER_ABSTIME, initial=max(self.planned[0][0], 1))
            else:
                os.timerfd_settime_ns(self.timer, initial=0)
            ready = self.epoll.poll()
            now = time.monotonic_ns()
            if now - last > SAME:
                self.instant = now - (now - self.origin) % ROUND
                if self.planned and 0 <= now - self.planned[0][0] <= SAME:
                    self.instant = self.planned[0][0]
            self.drain(ready)
            with contextlib.suppress(BlockingIOError):
                os.read(self.timer, 8)
            if self.planned and self.planned[0][0] <= time.monotonic_ns():
                # All of that time, then what follows from it, and only then what comes later
                self.instant = when = self.planned[0][0]
                while self.planned and self.planned[0][0] == when and not done():
                    _, _, function, args = heapq.heappop(self.planned)
                    function(*args)
                self.drain(self.epoll.poll(0))
            last = time.monotonic_ns()

    def close(self):
        self.epoll.close()
        os.close(self.timer)


class Host:
    def __init__(self, name, home):
        self.name, self.home = name, home
        os.unshare(os.CLONE_NEWNET)
        try:
            self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            self.set(net__ipv6__conf__all__accept_ra=0, net__ipv6__conf__default__accept_ra=0,
                     net__ipv6__conf__default__addr_gen_mode=1, net__ipv6__conf__default__router_solicitations=0)
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
            n = NUMBER[name]
            self.interface("lo", SIOCSIFFLAGS, struct.pack("H", IFF_UP))
            self.interface(DEVICE, SIOCSIFMTU, struct.pack("i", 1500))
            self.interface(DEVICE, SIOCSIFTXQLEN, struct.pack("i", 10000))
            self.interface(DEVICE, SIOCSIFADDR, struct.pack("HH4s", socket.AF_INET, 0, bytes((10, 0, 0, n))))
            self.interface(DEVICE, SIOCSIFNETMASK, struct.pack("HH4s", socket.AF_INET, 0, bytes((255, 255, 255, 0))))
            self.interface(DEVICE, SIOCSIFFLAGS, struct.pack("H", IFF_UP))
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
                index = struct.unpack_from("i", fcntl.ioctl(s, SIOCGIFINDEX, struct.pack("16s24x", DEVICE.encode())), 16)[0]
                fcntl.ioctl(s, SIOCSIFADDR, struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, f"fd00::{n}"), 64, index))
            self.diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_SOCK_DIAG)
            self.diag.bind((0, 0))
            for group in TCP_DESTROY, TCP6_DESTROY:
                self.diag.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        finally:
            os.setns(home, os.CLONE_NEWNET)

    @staticmethod
    def interface(device, request, value):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, request, struct.pack("16s24s", device.encode(), value))

    @contextlib.contextmanager
    def here(self):
        """What is opened within belongs to the host"""
        os.setns(self.namespace, os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(self.home, os.CLONE_NEWNET)

    @staticmethod
    def set(**values):
        for name, value in values.items():
            with open(f"/proc/sys/{name.replace('__', '/')}", "w", encoding="ascii") as f:
                f.write(str(value))

    def sysctl(self, values):
        """Set what is below net, by names like ipv4/tcp_sack. What the kernel does not have is an error"""
        with self.here():
            self.set(**{f"net/{name}": value for name, value in values.items()})

    def command(self, *words):
        with self.here():
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout.strip()}")

    def counters(self):
        """The kernel's, by the names of nstat; those of IP count other things, too"""
        found = {}
        with self.here():
            for name in "snmp", "netstat":
                with open(f"/proc/net/{name}", encoding="ascii") as f:
                    for names, values in zip(*[map(str.split, f)] * 2):
                        if names[0] in ("Tcp:", "TcpExt:", "MPTcpExt:"):
                            found.update((names[0][:-1] + n, int(v)) for n, v in zip(names[1:], values[1:]))
        return found

    def served(self):
        """How many sockets have got timers of the module's"""
        with self.here(), contextlib.suppress(FileNotFoundError), open("/proc/net/finetcp_stat", encoding="ascii") as f:
            return next(line.split()[1] for line in f if line.startswith("Sockets"))

    def sockets(self):
        """(local port, remote port, state) of each, but for listeners"""
        found = []
        with self.here():
            for name in "tcp", "tcp6":
                with open(f"/proc/net/{name}", encoding="ascii") as f:
                    rows = [line.split() for line in f][1:]
                found += [[int(row[1].split(":")[1], 16), int(row[2].split(":")[1], 16), int(row[3], 16)]
                          for row in rows if row[3] != "0A"]
        return sorted(found)

    def destroyed(self):
        """(local port, remote port) of each socket that is gone since the last call"""
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self.diag.recv(PIECE)
                while len(message) >= 24:
                    size = struct.unpack_from("=I", message)[0]
                    yield struct.unpack_from("!HH", message, 20)
                    message = message[(size + 3) & ~3:]

    def close(self):
        self.diag.close()
        os.close(self.tun)
        os.close(self.namespace)


class End:
    """One end of a connection, and the program that owns it: it does what the script says, and reads
    what comes unless it is told not to"""

    def __init__(self, stage, host, connection):
        self.stage, self.host, self.connection = stage, host, connection
        self.socket = None
        self.waiting = []               # what is to be done once there is a socket
        self.to_send = self.sent = self.received = 0
        self.reading, self.connected, self.over = True, False, False
        self.shut = self.shutting = self.closing = False
        self.ended = None

    def note(self, what, *more):
        self.stage.note(self.host.name, self.connection["name"], what, *more)

    def attach(self, s):
        self.socket = s
        s.setblocking(False)
        self.stage.loop.watch(s.fileno(), 2 if self.host.name == "a" else 3, self.ready, self.events())

    def events(self):
        wanted = 0
        if self.reading and self.connected and not self.ended:
            wanted |= select.EPOLLIN
        if not self.connected or self.to_send:
            wanted |= select.EPOLLOUT
        return wanted

    def look(self):
        if self.socket and self.socket.fileno() in self.stage.loop.handlers:
            self.stage.loop.epoll.modify(self.socket.fileno(), self.events())

    def do(self, what, *args):
        """An action of the script"""
        if self.over:
            return
        if self.socket is None and what != "connect":
            if what in ("close", "abort"):      # never accepted: there is nothing to do
                self.over = True
            else:
                self.waiting.append((what, *args))
            return
        self.note("does", what, *args)
        try:
            getattr(self, f"do_{what}")(*args)
        except OSError as error:
            self.note("fails", errno.errorcode[error.errno])
        self.look()

    def do_connect(self):
        c = self.connection
        family = socket.AF_INET6 if c["family"] == 6 else socket.AF_INET
        mine, theirs = (("fd00::1", "fd00::2") if c["family"] == 6 else ("10.0.0.1", "10.0.0.2"))
        with self.host.here():
            s = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if c["kind"] == "mptcp" else 0)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        options(s, c["client_options"])
        s.bind((mine, c["port"]))
        self.address = theirs, c["server_port"]
        self.attach(s)
        if c["kind"] == "tfo":
            self.to_send += c["first"]
            try:
                self.sent += s.sendto(pattern(0, c["first"]), MSG_FASTOPEN, self.address)
                self.to_send -= self.sent
            except BlockingIOError:
                pass
        else:
            error = s.connect_ex(self.address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, "connect")

    def accepted(self, s):
        self.connected = True
        self.attach(s)
        self.note("accepted")
        for what in self.waiting:
            self.do(*what)
        self.waiting = []

    def do_write(self, size):
        self.to_send += size
        self.write()

    def do_shut(self):
        self.shutting = True
        self.finish()

    def do_close(self):
        self.closing = False
        self.end("closed")

    def do_abort(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.end("aborted")

    def do_pause(self):
        self.reading = False

    def do_resume(self):
        self.reading = True

    def do_option(self, level, name, value):
        self.socket.setsockopt(level, name, value)

    def do_info(self):
        before = self.host.served()
        data = self.socket.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 232)
        if self.host.served() != before:
            self.note("written by reading")
        self.note("info", {name: struct.unpack_from("=" + code, data, at)[0] for name, (code, at) in INFO.items()
                           if at < len(data)})

    def write(self):
        try:
            while self.to_send and self.connected:
                done = self.socket.send(pattern(self.sent, min(self.to_send, PIECE)))
                self.sent += done
                self.to_send -= done
        except BlockingIOError:
            pass
        self.finish()

    def finish(self):
        if self.shutting and self.connected and not self.to_send and not self.shut:
            self.shut = True
            self.socket.shutdown(socket.SHUT_WR)

    def read(self):
        got = 0
        try:
            while self.reading and not self.ended:
                data = self.socket.recv(PIECE)
                if not data:
                    self.ended = "eof"
                    break
                if data != pattern(self.received, len(data)):
                    self.note("wrong")
                got += len(data)
                self.received += len(data)
        except BlockingIOError:
            pass
        if got:
            self.note("read", self.received)
        if self.ended:
            self.note("eof")

    def ready(self, events):
        try:
            if events & select.EPOLLERR:
                error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    self.note("error", errno.errorcode[error])
                    self.end(errno.errorcode[error])
                    return
            if not self.connected and events & select.EPOLLOUT and not events & select.EPOLLHUP:
                self.connected = True
                self.note("connected")
            if events & select.EPOLLIN:
                self.read()
            if events & select.EPOLLOUT:
                self.write()
            if events & select.EPOLLHUP:
                self.note("hangup")
                self.stage.loop.forget(self.socket.fileno())
                return
        except OSError as error:
            self.note("error", errno.errorcode[error.errno])
            self.end(errno.errorcode[error.errno])
            return
        self.look()

    def end(self, how):
        if not self.over:
            self.over = True
            self.note("ends", how, self.sent, self.received)
            self.stage.loop.forget(self.socket.fileno())
            self.socket.close()


def options(s, values):
    """Socket options as [level, name, value], where a value may be text"""
    for level, name, value in values:
        s.setsockopt(level, name, value.encode() if isinstance(value, str) else value)
