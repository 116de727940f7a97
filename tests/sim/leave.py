#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched --no-module
"""What is left when finetcp has gone: nothing. Connections, listeners, settings are as on a kernel
that never had it."""

import contextlib
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import ADDRESS, TICK, Connection, case, insmod, main, near, rmmod, sleep_us, within  # noqa: E402

FINETCP = os.environ["FINETCP_KERNEL"] != "stock"
SHORT, DEFAULT = 200, 200_000   # us
TCP_RTO_MIN_US = 45
HERE = "10.0.0.1", 5001         # of a


@contextlib.contextmanager
def finetcp():
    """It is loaded meanwhile; a kernel that has none does without"""
    if FINETCP:
        insmod()
    try:
        yield
    finally:
        if FINETCP:
            rmmod()


def settings(lab, rto_min):
    if FINETCP:
        for host in "ab":
            lab.sysctl(host, tcp_rto_min=rto_min)


def check_rto(us):
    """200 ms and the round trip, rounded up to a tick or two"""
    within("tcpi_rto", us, DEFAULT, DEFAULT + 2 * TICK)


def check_connection(lab, connection):
    """Its timeout is the kernel's own: at once, after more round trips, and on the wire"""
    check_rto(connection.info()[0])
    connection.exchange(50)
    check_rto(connection.info()[0])
    wire = lab.capture()
    gaps = connection.lose_one(wire, 500_000)
    near("retransmissions", len(gaps), 1, 0)
    within("the first one after", gaps[0], DEFAULT, DEFAULT * 9 / 8 + 2 * TICK)
    connection.recover()


@case("left", "restored")
def rmmod__connection(lab, what):
    """One that had a timeout of 200 us, whether or not the setting was taken back before"""
    lab.sysctl("a", tcp_early_retrans=0)
    with contextlib.ExitStack() as stack:
        with finetcp():
            settings(lab, SHORT)
            c = stack.enter_context(lab.connect())
            if what == "restored":
                settings(lab, DEFAULT)
        check_connection(lab, c)


@case("left", "restored")
def rmmod__older_connection(lab, what):
    """One that was there before finetcp was"""
    lab.sysctl("a", tcp_early_retrans=0)
    with lab.connect() as c:
        with finetcp():
            settings(lab, SHORT)
            c.exchange(30)
            if what == "restored":
                settings(lab, DEFAULT)
        check_connection(lab, c)


@case
def rmmod__peer_delays_acks(lab):
    """A peer whose ACKs wait for 40 ms, as the kernel's do, gets nothing twice"""
    lab.sysctl("a", tcp_early_retrans=0)
    with lab.connect() as c:
        with finetcp():
            settings(lab, SHORT)
            c.exchange(30)
        c.exchange(30)
        before = lab.nstat("a")
        for _ in range(20):
            c.send()
            c.receive()
            sleep_us(60_000)
        after = lab.nstat("a")
        for name in "TcpRetransSegs", "TcpExtTCPTimeouts":
            near(name, after[name] - before[name], 0, 0)


@case
def rmmod__peer_speaks(lab):
    """A segment that waits when the module leaves is sent again when it would have been, though something has
    come from the peer meanwhile"""
    lab.sysctl("a", tcp_early_retrans=0, tcp_rto_min_us=300_000)
    with lab.connect() as c:
        with finetcp():
            c.exchange(30)
            c.lose()
            wire = lab.capture()
            c.send()
            sleep_us(200_000)
            c.b.send(b"x")
            sleep_us(20_000)
        sleep_us(300_000)
        gaps = wire.gaps()
        near("retransmissions", len(gaps), 1, 0)
        within("the first one", gaps[0], 300_000, 300_000 * 9 / 8 + 2 * TICK)


@case
def rmmod__idle_connection(lab):
    """One that was silent from its handshake on"""
    lab.sysctl("a", tcp_early_retrans=0)
    lab.meet()
    with contextlib.ExitStack() as stack:
        with finetcp():
            settings(lab, SHORT)
            (c,) = lab.connections(1, ADDRESS)
            stack.enter_context(c)
            sleep_us(1_000_000)
        check_connection(lab, c)


def listen(lab):
    with lab.on("a"):
        return socket.create_server(HERE)


def accept(lab, listener):
    """A connection that a has accepted"""
    with lab.on("b"):
        b = socket.create_connection(HERE)
    return Connection(listener.accept()[0], b)


@case
def rmmod__accepted_connection(lab):
    """One that was accepted, and has sent nothing yet"""
    lab.sysctl("a", tcp_early_retrans=0)
    lab.meet()
    with contextlib.ExitStack() as stack:
        with finetcp():
            settings(lab, SHORT)
            with listen(lab) as listener:
                c = stack.enter_context(accept(lab, listener))
            c.b.sendall(b"y")
            near("bytes that came", len(c.a.recv(2)), 1, 0)
        check_connection(lab, c)


@case
def rmmod__listener(lab):
    """A listener of that time takes connections later"""
    lab.sysctl("a", tcp_early_retrans=0)
    lab.meet()
    with contextlib.ExitStack() as stack:
        with finetcp():
            settings(lab, SHORT)
            listener = stack.enter_context(listen(lab))
        with accept(lab, listener) as c:
            check_connection(lab, c)


@case
def rmmod__socket(lab):
    """A socket of that time connects later"""
    lab.sysctl("a", tcp_early_retrans=0)
    lab.meet()
    with finetcp():
        settings(lab, SHORT)
        with lab.on("a"):
            s = socket.socket()
    with lab.on("b"), socket.create_server(ADDRESS) as listener:
        s.connect(ADDRESS)
        with Connection(s, listener.accept()[0]) as c:
            check_connection(lab, c)


@case
def rmmod__socket_option(lab):
    """TCP_RTO_MIN_US that only finetcp can keep is gone with it"""
    lab.sysctl("a", tcp_early_retrans=0)
    with lab.connect() as c:
        with finetcp():
            if FINETCP:
                c.a.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MIN_US, SHORT)
            c.exchange(30)
        check_connection(lab, c)


@case
def rmmod__new_connection(lab):
    """The namespace makes connections with the kernel's own timeout again"""
    with finetcp():
        settings(lab, SHORT)
        lab.connect().close()
    lab.sysctl("a", tcp_early_retrans=0)
    with lab.connect() as c:
        check_connection(lab, c)


def check_setting(lab, name, before, meanwhile, after):
    """What it was before, what was written meanwhile (name and value), and what it is in the end"""
    if before:
        lab.sysctl("a", **{name: before})
    with finetcp():
        if FINETCP:
            lab.sysctl("a", **dict([meanwhile]))
        else:
            # Only what is to stay, for nobody is here to take it back
            lab.sysctl("a", **({name: after} if meanwhile[1] == after else {}))
    near(name, int(lab.read("a", name)), after, 0)


# name: (before, meanwhile, after) of tcp_rto_min_us
RTO_MIN = {
    "short": (None, ("tcp_rto_min", SHORT), DEFAULT),
    "short_by_the_other_name": (None, ("tcp_rto_min_us", SHORT), DEFAULT),
    "less_than_two_ticks": (None, ("tcp_rto_min_us", TICK), DEFAULT),
    "not_the_default": (50_000, ("tcp_rto_min", SHORT), 50_000),
    "longer": (None, ("tcp_rto_min", 300_000), DEFAULT),
    "two_ticks_by_the_other_name": (None, ("tcp_rto_min_us", 2 * TICK), 2 * TICK),
    "longer_by_the_other_name": (50_000, ("tcp_rto_min_us", 300_000), 300_000),
}


@case(*RTO_MIN)
def rmmod__tcp_rto_min_us(lab, name):
    """The kernel's own minimum is what it was, unless it was set itself to what the kernel can keep"""
    check_setting(lab, "tcp_rto_min_us", *RTO_MIN[name])


# name: (before, meanwhile, after) of tcp_limit_output_bytes
LIMIT = {
    "small": (None, ("tcp_limit_output_bytes", 40_000), 4 << 20),
    "large": (None, ("tcp_limit_output_bytes", 1 << 20), 1 << 20),
}


@case(*LIMIT)
def rmmod__tcp_limit_output_bytes(lab, name):
    """A limit that only finetcp makes good use of is gone with it, another stays"""
    check_setting(lab, "tcp_limit_output_bytes", *LIMIT[name])


if __name__ == "__main__":
    main()
