#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --no-module --append highres=off
"""A boot with highres=off: the module works at the clock's resolution, and says
so in one line."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, insmod, main, run, within  # noqa: E402


@case
def insmod__says_so(_):
    insmod()
    lines = [line for line in run("dmesg").splitlines() if "] finetcp: " in line and "taints kernel" not in line]
    assert len(lines) == 1 and "no high resolution" in lines[0] and "1000 us" in lines[0], lines


@case(200, 10000, 200000)
def first_timeout__on_a_tick(lab, rto_min):
    """Never early, and late by two ticks at most"""
    lab.sysctl("a", tcp_rto_min=rto_min, tcp_early_retrans=0)
    lab.delay(2000)
    wire = lab.capture()
    with lab.connect(exchanges=100) as c:
        rto = c.info()[0]
        within("retransmission", c.lose_one(wire, 1.5 * rto + 5000)[0], rto, rto + 2000)
        c.recover()


if __name__ == "__main__":
    main()
