#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""The settings: what they take, and for whom they hold. And the counters."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main  # noqa: E402

NAMES = "tcp_rto_min", "tcp_rto_min_us"


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


# name: (default, values to take, values to refuse)
BAD = "-1", "4294967296", "x", "1x"
OURS = {
    "tcp_linear_timeouts": ("0", ("6", "0", "1"), BAD + ("7", "257")),
    "tcp_rto_variance_max": ("0", ("1000", "0", "100"), BAD + ("1001",)),
    "tcp_backoff_max": ("120000000", ("20", "120000000", "2000"), BAD + ("19", "0", "120000001")),
    "tcp_rto_jitter": ("0", ("100", "0", "10"), BAD + ("101",)),
    "tcp_delayed_ack": ("1", ("0", "1"), BAD + ("2",)),
    "tcp_delack_min": ("40000", ("20", "200000", "500"), BAD + ("19", "0", "200001")),
    "tcp_rto_init": ("1000000", ("20", "120000000", "5000"), BAD + ("19", "0", "120000001")),
}


@case(*OURS)
def setting(lab, name):
    """A setting that is there with the module, each namespace its own"""
    default, good, bad = OURS[name]
    assert [lab.read(host, name) for host in "ab"] == [default] * 2
    for value in good:
        lab.sysctl("a", **{name: value})
        assert [lab.read(host, name) for host in "ab"] == [value, default]
    for value in bad:
        lab.refuses("a", name, value)


@case
def unprivileged_counters(lab):
    """Anyone may read the counters, of their own namespace"""
    names = ["Sockets", "AllocFailures", "TimersStarted", "TimersRearmed",
             "TimersEarly", "TimersFired", "TimersCancelled", "TimersOnWheel",
             "AcksDelayed", "AcksFired",
             "QueueThrottled", "QueueDeferred", "QueueRuns", "QueueBytes",
             "ExtraRuns", "ExtraRunUsecs", "ExtraRunOverdue", "ExtraRunUnpaid", "ExtraRunYields"]
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
