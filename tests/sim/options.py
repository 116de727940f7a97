#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""The socket options TCP_RTO_MIN_US and TCP_DELACK_MAX_US, to the microsecond, and who goes first:
route, socket option, sysctl."""

import errno
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, near, run  # noqa: E402

RTT = 50
ROUGHLY = 12            # us
TCP_RTO_MIN_US, TCP_DELACK_MAX_US = 45, 46
OPTIONS = {"rto_min": TCP_RTO_MIN_US, "delack_max": TCP_DELACK_MAX_US}


def option(s, name, value=None):
    if value is not None:
        s.setsockopt(socket.IPPROTO_TCP, name, value)
    return s.getsockopt(socket.IPPROTO_TCP, name)


@case(*OPTIONS)
def reads_as_it_was_set(_, name):
    with socket.socket() as s:
        near("never set", option(s, OPTIONS[name]), 200_000, 0)
        for us in 20, 21, 999, 1001, 54321, 200_000:
            near("value", option(s, OPTIONS[name], us), us, 0)


@case(*OPTIONS)
def refused(_, name):
    with socket.socket() as s:
        option(s, OPTIONS[name], 300)
        for us in 19, 0, -1, 200_001, 2**31 - 1:
            try:
                option(s, OPTIONS[name], us)
            except OSError as error:
                assert error.errno == errno.EINVAL, error
            else:
                raise AssertionError(f"it took {us}")
            near("value", option(s, OPTIONS[name]), 300, 0)


@case
def inherited(lab):
    """What is set for a listener holds for its connections"""
    with lab.on("b"), socket.create_server(("10.0.0.2", 6000)) as listener:
        option(listener, TCP_RTO_MIN_US, 321)
        option(listener, TCP_DELACK_MAX_US, 123)
        with lab.on("a"), socket.create_connection(("10.0.0.2", 6000)):
            with listener.accept()[0] as s:
                near("TCP_RTO_MIN_US", option(s, TCP_RTO_MIN_US), 321, 0)
                near("TCP_DELACK_MAX_US", option(s, TCP_DELACK_MAX_US), 123, 0)


@case(50, 4321, 200_000)
def rto_min__before_sysctl(lab, us):
    lab.sysctl("a", tcp_rto_min=300, tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect() as c:
        near("tcpi_rto", c.info()[0], RTT + 300, ROUGHLY)
        option(c.a, TCP_RTO_MIN_US, us)
        c.exchange(30)
        near("tcpi_rto", c.info()[0], RTT + us, ROUGHLY)
        lab.sysctl("a", tcp_rto_min=200)
        c.exchange(30)
        rto = c.info()[0]
        near("tcpi_rto", rto, RTT + us, ROUGHLY)
        near("retransmission", c.lose_one(wire, 1.5 * rto)[0], rto)


@case(1100, 4321, 5500)
def rto_min__between_ticks(lab, us):
    """The kernel rounds its own up, and knows nothing else yet. The next timeout is what was set"""
    lab.sysctl("a", tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect() as c:
        c.exchange(30)
        option(c.a, TCP_RTO_MIN_US, us)
        near("retransmission", c.lose_one(wire, 300_000)[0], RTT + us, ROUGHLY)


@case
def rto_min__route_before_option(lab):
    run("ip", "-n", "a", "route", "change", "10.0.0.0/24", "dev", "e0", "rto_min", "7ms")
    with lab.connect() as c:
        option(c.a, TCP_RTO_MIN_US, 50)
        c.exchange(30)
        near("tcpi_rto", c.info()[0], RTT + 7000, ROUGHLY)


@case(20, 137, 5000)
def delack_max__before_sysctl(lab, us):
    with lab.connect() as c:
        option(c.b, TCP_DELACK_MAX_US, us)
        c.exchange(5)
        near("acknowledgement", lab.ack_delay(c), RTT + us, ROUGHLY)


if __name__ == "__main__":
    main()
