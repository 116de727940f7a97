#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""MPTCP: its subflows are TCP sockets of the kernel, with timers of their own."""

import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import IPPROTO_MPTCP, case, main, near, run, within  # noqa: E402


def check_transfer(lab, family):
    lab.connect(family, IPPROTO_MPTCP).close()
    before = lab.stat()["Sockets"]
    with lab.connect(family, IPPROTO_MPTCP, exchanges=5) as c:
        subflows = run("ip", "netns", "exec", "a", "ss", "-tni")
        assert "tcp-ulp-mptcp" in subflows, subflows
        c.transfer(1 << 20)
    within("Sockets", lab.stat()["Sockets"] - before, 1, 3)


@case(0, 2)
def transfer__loss_percent(lab, percent):
    lab.sysctl("a", tcp_rto_min=200)
    lab.lossy(percent)
    check_transfer(lab, socket.AF_INET)
    check_transfer(lab, socket.AF_INET6)


@case
def subflow_timeout(lab):
    """A subflow whose segments are lost sends them again after the minimal timeout"""
    lab.sysctl("a", tcp_rto_min=1000, tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect(protocol=IPPROTO_MPTCP, exchanges=100) as c:
        near("first retransmission", c.lose_one(wire, 2000)[0], 1050, 12)
        c.recover()


if __name__ == "__main__":
    main()
