#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --smp 2
"""The trace events, and the scripts that read them."""

import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import TRACING, Bulk, Skip, case, main, tracing, within  # noqa: E402

SCRIPTS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "scripts", "trace")


def traffic(lab, exchanges=100):
    lab.sysctl("a", tcp_rto_min=2000)
    lab.lossy(5)
    with lab.connect() as c:
        c.transfer(1 << 20)
        c.exchange(exchanges)


def output_of(script, work):
    """What the script says of the work"""
    command = [os.path.join(SCRIPTS, script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as bpftrace:
        try:
            # BEGIN's line says that it is ready.
            said = ""
            while "Ctrl-C" not in said:
                line = bpftrace.stdout.readline()
                assert line, said
                said += line
            work()
            time.sleep(2)
            bpftrace.send_signal(signal.SIGINT)
            return bpftrace.communicate(timeout=120)[0]
        finally:
            bpftrace.kill()


@case
def events(lab):
    """A start and, that much later, an expiry"""
    tracing("events/finetcp/tcp_timer_start/enable", "1")
    tracing("events/finetcp/tcp_timer_expire/enable", "1")
    try:
        lab.sysctl("a", tcp_rto_min=20000, tcp_early_retrans=0)
        with lab.connect() as c:
            port = c.a.getsockname()[1]
            c.lose_one(lab.capture(), 300_000)
    finally:
        tracing("events/enable", "0")
    with open(f"{TRACING}/trace", encoding="ascii") as f:
        lines = [line for line in f if f"src=10.0.0.1:{port} " in line]
    kinds = {(event, kind) for line in lines for event, kind in re.findall(r"(tcp_timer_\w+): .*kind=(\w+)", line)}
    assert {("tcp_timer_start", "retransmit"), ("tcp_timer_expire", "retransmit")} <= kinds, kinds
    # the first expiry, and the last start before it
    seen = []
    for line in lines:
        found = re.search(r" (\d+\.\d+): (tcp_timer_\w+): .*kind=retransmit ns=(\d+) ", line)
        if found:
            seen.append((float(found[1]) * 10**6, found[2], int(found[3]) / 1000))
        if seen and seen[-1][1] == "tcp_timer_expire":
            break
    (start, _, delay), (expiry, _, late) = seen[-2:]
    within("from start to expiry in us", expiry - start, delay - 1000, delay + late + 1000)


@case
def timer_lateness(lab):
    text = output_of("timer-lateness.bt", work=lambda: traffic(lab))
    assert "@late_us[retransmit]:" in text or "@late_us[loss_probe]:" in text, text
    within("expiries counted", sum(map(int, re.findall(r"\)\s+(\d+) \|", text))), 1, 1e6)


@case
def top_retransmits(lab):
    text = output_of("top-retransmits.bt", work=lambda: traffic(lab))
    found = re.findall(r"@segments\[10\.0\.0\.2, (\d+)\]: (\d+)", text)
    assert found, text


@case
def queued_bytes(lab):
    """A device that is slow: what waits for it is near the limit, what goes on has less"""
    if not os.path.exists("/sys/kernel/btf/vmlinux"):
        raise Skip("this kernel does not say what its types look like")
    lab.slow(100)
    lab.sysctl("a", tcp_limit_output_bytes=40000)

    def work():
        with Bulk(lab):
            time.sleep(8)

    text = output_of("queued-bytes.bt", work)
    means = {name: [int(n) for n in re.findall(rf"@{name}\[\d+, 6000\]: count \d+, average (\d+),", text)]
             for name in ("waits", "goes_on")}
    for name, values in means.items():
        assert values, (name, text)
    within("bytes of one that waits", max(means["waits"]), 20_000, 40_000)
    within("bytes of one that goes on", max(means["goes_on"]), 1, max(means["waits"]) - 10_000)


if __name__ == "__main__":
    main()
