#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# sim: --kernel patched
# guest: --kernel patched --smp 2
"""All settings and socket options at once, written at random by a process each, right and wrong values,
while connections come, move data and go: what is right reads back, what is wrong is refused and changes
nothing, and the data arrives whole.

SECONDS says for how long, SEED what is written."""

import contextlib
import errno
import multiprocessing
import os
import random
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import SLOW, case, main, near, within  # noqa: E402

VIRTUAL = "patched-um" in os.environ["FINETCP_BUILD"]
SECONDS = int(os.environ.get("SECONDS", 5 if VIRTUAL else 90 if SLOW else 15))
PAUSE = 0.01 if VIRTUAL else 0  # between two writes, or a virtual clock stands still
SEED = int(os.environ.get("SEED", 1))
FLOOR = 20              # us: the module's parameter
INT_MAX = (1 << 31) - 1
SIZE = 100_000          # bytes of a transfer

# name: (least, most) that it takes. The first has two names.
OURS = {
    "tcp_rto_min": (FLOOR, INT_MAX),
    "tcp_rto_variance_max": (0, 1000),
    "tcp_linear_timeouts": (0, 6),
    "tcp_rto_jitter": (0, 100),
    "tcp_rto_init": (FLOOR, 120_000_000),
    "tcp_delayed_ack": (0, 1),
    "tcp_delack_min": (FLOOR, 200_000),
    "tcp_limit_output_usecs": (0, 1_000_000),
    "tcp_backoff_max": (FLOOR, 120_000_000),
    "tcp_extra_run": (0, 3000),
}
# The kernel's own that finetcp has to do with: any of the values will do
KERNELS = {
    "tcp_limit_output_bytes": (1, 20_000, 131_072, 4 << 20, INT_MAX),
    "tcp_early_retrans": (0, 3),
    "tcp_recovery": (0, 1, 3),
    "tcp_frto": (0, 2),
    "tcp_thin_linear_timeouts": (0, 1),
    "tcp_slow_start_after_idle": (0, 1),
    "tcp_pingpong_thresh": (1, 3),
    "tcp_min_tso_segs": (1, 2, 16),
    "tcp_sack": (0, 1),
    "tcp_timestamps": (0, 1),
    "tcp_autocorking": (0, 1),
    "tcp_rto_max_ms": (1000, 120_000),
}
# What a socket may be told, ours with what they take
TCP_RTO_MIN_US, TCP_DELACK_MAX_US = 45, 46
OUR_OPTIONS = {TCP_RTO_MIN_US: (FLOOR, 200_000), TCP_DELACK_MAX_US: (FLOOR, 200_000)}
SO_MAX_PACING_RATE = 47
TCP_WINDOW_CLAMP, TCP_THIN_LINEAR_TIMEOUTS, TCP_TX_DELAY, TCP_RTO_MAX_MS = 10, 16, 37, 44
OPTIONS = {
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): (0, 1),
    (socket.IPPROTO_TCP, socket.TCP_QUICKACK): (0, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): (0, 60_000),
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT): (1, 1 << 17),
    (socket.IPPROTO_TCP, socket.TCP_MAXSEG): (88, 500, 1460),
    (socket.IPPROTO_TCP, TCP_WINDOW_CLAMP): (4096, 65_536),
    (socket.IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS): (0, 1),
    (socket.IPPROTO_TCP, TCP_TX_DELAY): (0, 300),
    (socket.IPPROTO_TCP, TCP_RTO_MAX_MS): (1000, 5000, 120_000),
    (socket.SOL_SOCKET, SO_MAX_PACING_RATE): (10_000_000, INT_MAX),
    (socket.SOL_SOCKET, socket.SO_SNDBUF): (4096, 1 << 20),
    (socket.SOL_SOCKET, socket.SO_RCVBUF): (4096, 1 << 20),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): (0, 1),
}
with open("/proc/sys/net/ipv4/tcp_available_congestion_control", encoding="ascii") as available:
    CONTROLS = available.read().split()


def number(chance, least, most, bits=34):
    """One that is taken, or is not: near a bound, or anywhere, or nonsense"""
    return chance.choice((least, least + 1, most, most - 1, least - 1, min(most + 1, (1 << (bits - 1)) - 1),
                          chance.randint(least, most), chance.randrange(-(1 << (bits - 1)), 1 << (bits - 1))))


def takes(least, most, value):
    return least <= value <= most


def write_ours(lab, chance, name):
    least, most = OURS[name]
    names = (name, name + "_us") if name == "tcp_rto_min" else (name,)
    value = chance.choice((number(chance, least, most), "x", "", "1e3"))
    if isinstance(value, int) and takes(least, most, value):
        lab.sysctl("a", **{chance.choice(names): value})
        for n in names:
            near(n, int(lab.read("a", n)), value, 0)
    elif value != "":       # which writes nothing
        lab.refuses("a", chance.choice(names), value)


def write_kernels(lab, chance, name):
    value = chance.choice(KERNELS[name])
    lab.sysctl("a", **{name: value})
    near(name, int(lab.read("a", name)), value, 0)


def set_options(chance, s):
    """Any of them, in any order"""
    for _ in range(chance.randrange(8)):
        option, (least, most) = chance.choice(list(OUR_OPTIONS.items()))
        value = number(chance, least, most, bits=32)
        before = s.getsockopt(socket.IPPROTO_TCP, option)
        try:
            s.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError as error:
            near("the error", error.errno, errno.EINVAL, 0)
            assert not takes(least, most, value), f"option {option} refused {value}"
            near(f"option {option}", s.getsockopt(socket.IPPROTO_TCP, option), before, 0)
        else:
            assert takes(least, most, value), f"option {option} took {value}"
            near(f"option {option}", s.getsockopt(socket.IPPROTO_TCP, option), value, 0)
        (level, name), values = chance.choice(list(OPTIONS.items()))
        with contextlib.suppress(OSError):      # not in every state
            s.setsockopt(level, name, chance.choice(values))
        if chance.random() < 0.2:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, chance.choice(CONTROLS).encode())


def use(lab, chance, place):
    """A connection, whose ends are told all kinds of things before and while data moves"""
    (c,) = lab.connections(1, ("10.0.0.2", 6000 + place))
    with c:
        for _ in range(chance.randrange(1, 4)):
            set_options(chance, chance.choice((c.a, c.b)))
            for s in c.a, c.b:  # or a few losses take longer than all this may
                s.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, 5000)
            c.transfer(chance.choice((1, 1000, SIZE)))


def work(lab, ended, seed, done, function, *args):
    """A process: the same again and again"""
    chance = random.Random(seed)
    while not ended.is_set():
        function(lab, chance, *args)
        done.value += 1
        time.sleep(PAUSE)


@case
def all_at_once(lab):
    lab.lossy(1)
    print(f"# SEED={SEED}", flush=True)
    jobs = [(write_ours, name) for name in OURS] + [(write_kernels, name) for name in KERNELS]
    jobs += [(use, place) for place in range(3)]
    ended = multiprocessing.Event()
    done = [multiprocessing.Value("Q", lock=False) for _ in jobs]
    workers = [multiprocessing.Process(target=work, args=(lab, ended, SEED * 100 + n, done[n], *job))
               for n, job in enumerate(jobs)]
    for w in workers:
        w.start()
    time.sleep(SECONDS)
    ended.set()
    for w, job in zip(workers, jobs):
        w.join(300)
        near(f"exit status of {job[0].__name__} {job[1]}", -1 if w.exitcode is None else w.exitcode, 0, 0)
    counts = {f"{job[0].__name__} {job[1]}": d.value for job, d in zip(jobs, done)}
    for name, count in counts.items():
        within(f"times: {name}", count, 3, 10**9)
    print("# " + ", ".join(f"{name} {count}" for name, count in counts.items()), flush=True)


if __name__ == "__main__":
    main()
