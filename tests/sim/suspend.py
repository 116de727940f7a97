#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel stock
# guest: --kernel patched
"""The host sleeps while timers are pending. By the clock that stands still meanwhile, they are neither early nor
late."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, run, within  # noqa: E402

STOCK = os.environ["FINETCP_KERNEL"] == "stock"


def asleep():
    """For how long the host has slept since it was booted, in us"""
    return (time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)) * 1e6


@case(20_000, 300_000)
def timeout__waits(lab, rto_min):
    """The host falls asleep at once: here nothing that it has to do before takes time"""
    lab.sysctl("a", tcp_rto_min_us=rto_min, tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect() as c:
        rto, before = c.info()[0], asleep()
        c.lose()
        wire.segments()
        c.send()
        run("rtcwake", "--mode", "mem", "--seconds", "3")
        slept = asleep() - before
        within("us asleep", slept, 2e6, 5e6)
        c.recover()
        (gap,) = wire.gaps()
        # The wheel may be late by an eighth and some ticks.
        within("us until it is sent again, awake", gap - slept, rto - 5, rto * 9 / 8 + 5000 if STOCK else rto + 5)


if __name__ == "__main__":
    main()
