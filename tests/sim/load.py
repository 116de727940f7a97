#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --no-module
"""The module comes and goes under connections that are waiting for a timeout,
and refuses what it cannot do."""

import errno
import os
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import (TICK, case, check_waits, insmod, main, near, rmmod, run, sleep_us, waits,  # noqa: E402
                 within)

TCP_RTO_MIN_US = 45
RTO_MIN = 10000


def backoff(connection, wire, change):
    """The gaps between the attempts for one lost segment; within the third one, the module comes or
    goes. The connection is well in the end"""
    gaps = connection.lose_one(wire, 50_000, change, 400_000)
    connection.recover()
    connection.exchange(10)
    return gaps


@case
def insmod__says_resolution(_):
    sleep_us(100_000)       # The clock turns to high resolution at its first ticks.
    insmod()
    rmmod()
    assert "finetcp: TCP timers at a resolution of 1 ns" in run("dmesg")


@case
def insmod__during_backoff(lab):
    """The pending deadline stays on the wheel, the next one does not"""
    # 11 ticks on the wheel, which has RTO_MIN and the round trip rounded up
    lab.sysctl("a", tcp_rto_min_us=RTO_MIN, tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect() as c:
        gaps = backoff(c, wire, insmod)
    rmmod()
    for n in range(3):
        within(f"retransmission {n + 1}", gaps[n], RTO_MIN + 50 << n, (11 << n) * TICK * 9 / 8 + 2 * TICK)
    for n in range(3, 5):
        near(f"retransmission {n + 1}", gaps[n], RTO_MIN + 50 << n, 10 << n)


@case
def rmmod__during_backoff(lab):
    """The next timeout is the kernel's own, when that is due, and from there on it doubles"""
    insmod()
    lab.sysctl("a", tcp_rto_min=RTO_MIN, tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect() as c:
        rto, rtt = c.info()
        gaps = backoff(c, wire, rmmod)
    early = [gap for gap in gaps if gap < 150_000]
    check_waits(early[:-1], waits(rto, rtt))
    within("the kernel's own timeout", sum(gaps[:len(early) + (sum(early) < 150_000)]), 200_000, 200_000 * 9 / 8 + 2 * TICK)
    within("retransmissions", len(gaps), 3, 6)


@case
def rmmod__during_delayed_ack(lab):
    """It comes when it was due, within a tick or two"""
    insmod()
    with lab.connect() as c:
        within("acknowledgement", lab.ack_delay(c, meanwhile=rmmod), 40_000, 40_000 + 3 * TICK)


@case
def insmod__during_delayed_ack(lab):
    """The wheel's deadline holds"""
    with lab.connect() as c:
        delay = lab.ack_delay(c, meanwhile=insmod)
    rmmod()
    within("acknowledgement", delay, 40_000, 40_000 + 3 * TICK)


@case
def rmmod__nothing_left(lab):
    """Without the module the kernel is as before: its files, its bounds, its times"""
    insmod()
    rmmod()
    assert not os.path.exists("/proc/net/finetcp_stat")
    for name in "rto_variance_max", "linear_timeouts", "backoff_max", "rto_jitter", "rto_init", "delack_min", "delayed_ack":
        assert not os.path.exists(f"/proc/sys/net/ipv4/tcp_{name}")
    with socket.socket() as s:
        try:
            s.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MIN_US, TICK)
        except OSError as error:
            assert error.errno == errno.EINVAL, error
        else:
            raise AssertionError("less than two ticks were taken")
    lab.sysctl("a", tcp_rto_min_us=1)
    lab.sysctl("a", tcp_rto_min_us=200000, tcp_early_retrans=0)
    wire = lab.capture()
    with lab.connect() as c:
        near("tcpi_rto", c.info()[0], 201000, 0)
        within("retransmission", c.lose_one(wire, 300_000)[0], 201000, 211000)


@case
def insmod__twenty_times(lab):
    """In the middle of traffic"""
    lab.sysctl("a", tcp_rto_min_us=200)
    with lab.connect() as c:
        for _ in range(20):
            insmod()
            c.exchange(5)
            c.send()
            rmmod()
            c.receive()
            c.exchange(5)


@case("0", "-1", "200001", "2147483648", "x")
def rto_min_floor__refused(_, value):
    refused = subprocess.run(["insmod", os.environ["FINETCP_KO"], f"rto_min_floor={value}"],
                             stderr=subprocess.PIPE, text=True, check=False)
    assert refused.returncode, "it was loaded"
    assert not os.path.exists("/sys/module/finetcp")
    # insmod itself says what kind of error it was
    assert "Invalid parameters" in refused.stderr or "out of range" in refused.stderr, refused.stderr


@case
def another_module__changes_nothing(lab):
    """What serves the timers already stays, with its settings: a copy of another name is refused"""
    insmod()
    lab.sysctl("a", tcp_rto_min=RTO_MIN)
    with open("/proc/sys/net/ipv4/tcp_rto_min", "w", encoding="ascii") as f:
        f.write(str(RTO_MIN))       # the first namespace, in which a module begins
    with open(os.environ["FINETCP_KO"], "rb") as f:
        image = f.read()
    assert b"\0finetcp\0" in image
    with tempfile.TemporaryDirectory() as directory:
        copy = f"{directory}/another.ko"
        with open(copy, "wb") as f:
            f.write(image.replace(b"\0finetcp\0", b"\0another\0"))
        refused = subprocess.run(["insmod", copy], stderr=subprocess.PIPE, text=True, check=False)
    assert "Device or resource busy" in refused.stderr, refused
    assert "another module serves TCP's timers" in run("dmesg")
    with open("/proc/sys/net/ipv4/tcp_rto_min", encoding="ascii") as f:
        assert f.read() == f"{RTO_MIN}\n"
    assert lab.read("a", "tcp_rto_min") == str(RTO_MIN)
    with lab.connect() as c:
        near("RTO", c.info()[0], RTO_MIN + c.info()[1], 100)
    rmmod()


@case
def insmod__begins_as_stock(lab):
    """Whatever a module had set before: also for what looks while the next one is loaded"""
    insmod()
    lab.sysctl("a", tcp_rto_min=200)
    rmmod()
    insmod()
    assert [lab.read("a", name) for name in ("tcp_rto_min", "tcp_rto_min_us")] == ["200000"] * 2
    rmmod()


@case(1, 200, 200000)
def rto_min_floor__bounds_the_sysctl(lab, floor):
    insmod(f"rto_min_floor={floor}")
    try:
        lab.sysctl("a", tcp_rto_min=floor)
        lab.refuses("a", "tcp_rto_min", floor - 1)
    finally:
        rmmod()


if __name__ == "__main__":
    main()
