#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --smp 2 --icount --no-module
# guest: --kernel patched --smp 2 --icount --no-module --append nohz=off
# guest: --kernel patched --smp 2 --icount --no-module --append highres=off
# guest: --kernel debug --smp 2 --icount --no-module --append nohz_full=1
"""What happens to a host while timers are pending: processors go and come, the clock changes, the module
leaves. Timers are pinned to a processor, so they have to be taken along. None is lost, none is early, and
by the clock that counts instructions none is late."""

import collections
import contextlib
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import PORT, Skip, case, insmod, main, rmmod, within  # noqa: E402
from streams import Stream, finish  # noqa: E402

DEBUG = os.environ["FINETCP_KERNEL"] == "debug"
TIMES = 1 if DEBUG else 5
COUNT = 10 if DEBUG else 30
# us: a processor that goes stops the others for a while, and a tick if highres=off
LATE = 100_000 if DEBUG else 2_000
CPU1 = "/sys/devices/system/cpu/cpu1/online"
CLOCKS = "/sys/devices/system/clocksource/clocksource0"


def read(path):
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


@contextlib.contextmanager
def on_cpu(cpu):
    """Whose timers are started there"""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait(lab, rto_min, meanwhile, late=LATE):
    """Connections each of which waits for its timeout on the second processor, while something happens: each
    sends again when it should, and then all arrives"""
    lab.sysctl("a", tcp_rto_min_us=rto_min, tcp_early_retrans=0)
    lab.stamp()
    connections = lab.connections(COUNT, ("10.0.0.2", PORT))
    with on_cpu(1):
        for c in connections:
            c.exchange(3)
            c.lose()
        rtos = [c.info()[0] for c in connections]
        wire = lab.capture(stamps=True)
        for c in connections:
            c.send()
    meanwhile()
    times = collections.defaultdict(list)       # by the number of the first byte, in the order of connections
    until = time.monotonic() + 10
    while len(times) < COUNT or min(map(len, times.values())) < 2:
        within("time until all have sent again", time.monotonic(), 0, until)
        time.sleep(0.001)
        for at, byte, _ in wire.segments():
            times[byte].append(at)
    delays = [(sent[1] - sent[0]) % (1 << 32) - rto for sent, rto in zip(times.values(), rtos)]
    within("us after the timeout, the first of all", min(delays), 0, late)
    within("us after the timeout, the last of all", max(delays), 0, late)
    # All at once: each wait is twice the one before.
    for c in connections:
        c.lose(False)
    for c in connections:
        c.receive()
        c.close()
    return max(delays)


def processor(online):
    write(CPU1, str(int(online)))


@case(5_000, 30_000, 900_000)
def processor__goes_with_timers(lab, rto_min):
    """Soon, on the clock; later, on the wheel at first"""
    insmod()
    try:
        for _ in range(TIMES):
            late = wait(lab, rto_min, lambda: processor(False))
            processor(True)
            print(f"# {late:.0f} us late at most", flush=True)
    finally:
        processor(True)
        rmmod()


@case
def processor__goes_and_comes_under_traffic(lab):
    """The module, too. What small queues have waiting on a processor that goes, goes on elsewhere"""
    lab.slow(200)
    lab.sysctl("a", tcp_limit_output_bytes=20_000)
    streams = [Stream(n, c) for n, c in enumerate(lab.connections(COUNT, ("10.0.0.2", PORT)))]
    loaded = False

    def move():
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            for s in streams:
                s.send(5000)
                s.receive()

    for n in range(4 * TIMES):
        processor(n % 2)
        move()
        if n % 3 == 0:
            rmmod() if loaded else insmod()
            loaded = not loaded
            move()
    processor(True)
    finish(streams)
    if loaded:
        rmmod()
    print(f"# {sum(s.received for s in streams)} bytes", flush=True)
    for s in streams:
        within("bytes of a stream", s.received, 5000, 10**10)
        s.connection.close()


@case
def clock__changes(lab):
    """Under connections that wait"""
    clocks, first = read(f"{CLOCKS}/available_clocksource").split(), read(f"{CLOCKS}/current_clocksource")
    if len(clocks) < 2:
        raise Skip(f"there is only {first}")
    insmod()
    try:
        for n in range(2 * TIMES):
            clock = clocks[n % len(clocks)]
            late = wait(lab, 50_000, lambda: write(f"{CLOCKS}/current_clocksource", clock))
            print(f"# {clock}: {late:.0f} us late at most", flush=True)
    finally:
        write(f"{CLOCKS}/current_clocksource", first)
        rmmod()


@case(1_000, 20_000, 300_000)
def module__leaves_timers_that_fire(lab, rto_min):
    """What was due comes from the wheel, by an eighth later at most, and not early"""
    for _ in range(TIMES):
        insmod()
        late = wait(lab, rto_min, rmmod, late=LATE + rto_min / 8)
        print(f"# {late:.0f} us late at most", flush=True)


if __name__ == "__main__":
    # A kernel that cannot do without ticks would only ignore the parameter.
    assert "nohz_full=1" not in read("/proc/cmdline") or read("/sys/devices/system/cpu/nohz_full") == "1"
    # Else the module's own suites run at each load.
    write("/sys/module/kunit/parameters/filter_glob", "none")
    main()
