#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched --icount
"""What it takes of a processor that many connections have the shortest timeouts that there are, and a peer
that never answers. What a process of the lowest priority gets done meanwhile is not taken.

What it takes of stock: scripts/vm --kernel stock --icount -- tests/vm/silence.py"""

import multiprocessing
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, within  # noqa: E402

COUNT = 1000
SECONDS = 2             # the worst of it: each wait is twice the one before
FLOOR = 20              # us: the module's parameter
SETTINGS = {
    "default": {},
    "shortest": {"tcp_rto_min_us": 1} if os.environ["FINETCP_KERNEL"] == "stock" else
                {"tcp_rto_min": FLOOR, "tcp_backoff_max": FLOOR, "tcp_linear_timeouts": 6},
}
MOST = {"default": 0.05, "shortest": 0.2}        # of the processor


def spin(turns):
    """Take all the time that nobody else wants"""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        turns.value += 1


@case(*SETTINGS)
def share(lab, which):
    turns = multiprocessing.Value("Q", lock=False)
    spinner = multiprocessing.Process(target=spin, args=(turns,), daemon=True)

    def spare(seconds, begin=()):
        """Turns in a second, from when those have sent on"""
        before, began = turns.value, time.monotonic()
        for c in begin:
            c.send()
        time.sleep(seconds)
        return (turns.value - before) / (time.monotonic() - began)

    lab.sysctl("a", **SETTINGS[which])
    connections = lab.connections(COUNT, ("10.0.0.2", 6000))
    for c in connections:
        c.exchange(2)
    time.sleep(0.3)     # until all ACKs have been sent
    for c in connections:
        c.lose()
    spinner.start()
    while not turns.value:
        time.sleep(0.01)
    quiet = spare(0.5)
    before = lab.nstat("a")["TcpRetransSegs"]
    taken = 1 - spare(SECONDS, connections) / quiet
    resent = lab.nstat("a")["TcpRetransSegs"] - before
    spinner.kill()
    spinner.join()
    print(f"# {which}: {100 * taken:.2f} % of the processor, each has sent again {resent / COUNT:g} times", flush=True)
    within("times that each has sent again", resent / COUNT, 2, 100)
    within("share of the processor", taken, -0.01, MOST[which])
    for c in connections:
        c.close()


if __name__ == "__main__":
    main()
