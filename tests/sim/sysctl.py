#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""net.ipv4.tcp_rto_min: what it takes, and for whom it holds."""

import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, near  # noqa: E402

NAMES = "tcp_rto_min", "tcp_rto_min_us"
TCP_RTO_MIN_US = 45


@case
def default(lab):
    for name in NAMES:
        assert lab.read("a", name) == "200000"


@case(*NAMES)
def one_value_two_names(lab, name):
    for value in "20", "200", "200000", "2147483647":
        lab.sysctl("a", **{name: value})
        assert [lab.read("a", n) for n in NAMES] == [value] * 2


@case("19", "0", "-1", "x", "2147483648", "4294967496", "200x", "1e3")
def refused(lab, value):
    lab.sysctl("a", tcp_rto_min=300)
    for name in NAMES:
        lab.refuses("a", name, value)


@case
def per_namespace(lab):
    lab.sysctl("a", tcp_rto_min=300)
    lab.sysctl("b", tcp_rto_min=400)
    assert [lab.read(host, "tcp_rto_min") for host in "ab"] == ["300", "400"]
    with open("/proc/sys/net/ipv4/tcp_rto_min", encoding="ascii") as f:
        assert f.read() == "200000\n"


@case
def linear_timeouts(lab):
    name = "tcp_linear_timeouts"
    assert [lab.read(host, name) for host in "ab"] == ["0", "0"]
    for value in "6", "1":
        lab.sysctl("a", **{name: value})
        assert [lab.read(host, name) for host in "ab"] == [value, "0"]
    for value in "-1", "7", "257", "4294967296", "x", "1x":
        lab.refuses("a", name, value)


@case
def socket_option_before_sysctl(lab):
    """TCP_RTO_MIN_US, to the microsecond"""
    lab.sysctl("a", tcp_rto_min=300)
    with lab.connect() as c:
        near("tcpi_rto", c.info()[0], 350, 12)
        c.a.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MIN_US, 4321)
        c.exchange(30)
        near("tcpi_rto", c.info()[0], 4371, 12)
        lab.sysctl("a", tcp_rto_min=200)
        c.exchange(30)
        near("tcpi_rto", c.info()[0], 4371, 12)


@case
def unprivileged_counters(lab):
    """Anyone may read the counters, of their own namespace"""
    names = ["Sockets", "AllocFailures", "TimersStarted", "TimersRearmed",
             "TimersEarly", "TimersFired", "TimersCancelled", "TimersOnWheel",
             "AcksDelayed", "AcksFired"]
    lab.connect().close()
    before = lab.stat("a")
    assert list(before) == names, before
    with lab.connect() as c:
        c.exchange()
    assert lab.stat("a")["Sockets"] == before["Sockets"] + 1
    with lab.on("a"):
        pid = os.fork()
        if not pid:
            os.setuid(65534)
            with open("/proc/net/finetcp_stat", encoding="ascii") as f:
                os._exit(f.read().count("\t") != len(names))
        assert os.waitpid(pid, 0)[1] == 0, "user nobody cannot read them"


if __name__ == "__main__":
    main()
