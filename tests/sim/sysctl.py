#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""The settings: what they take, and for whom they hold. And the counters."""

import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, insmod, main, rmmod  # noqa: E402

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


def documented_settings():
    """What Documentation/sysctl.rst says of the module's settings: {name: (default, lowest, highest)}"""
    found = {}
    for section in re.split(r"^net\.ipv4\.(?=\w+\n=)", DOCUMENTED, flags=re.M)[1:]:
        name = section.split("\n", 1)[0]
        low, high = re.search(r"^:Range: +(\d+|``rto_min_floor``)(?: \(below\))? (?:to|or) (\d+)", section, re.M).groups()
        found[name] = re.search(r"^:Default: (\d+)", section, re.M)[1], int(low) if low.isdigit() else FLOOR, int(high)
    return found


with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../Documentation/sysctl.rst"), encoding="utf-8") as f:
    DOCUMENTED = re.sub(r"net\.ipv4\.tcp_limit_output_bytes\n=.*?(?=\n\nnet\.ipv4)", "", f.read(), flags=re.S)    # the kernel's
FLOOR = 20
SETTINGS = documented_settings()


@case
def documented(lab):
    """The settings that come with the module are those of the documentation"""
    with_module = set(os.listdir("/proc/sys/net/ipv4"))
    rmmod()
    without = set(os.listdir("/proc/sys/net/ipv4"))
    insmod()
    assert with_module - without == set(SETTINGS), (with_module - without) ^ set(SETTINGS)


@case(*SETTINGS)
def setting(lab, name):
    """Each namespace has its own, which takes its range and nothing else"""
    default, low, high = SETTINGS[name]
    assert [lab.read(host, name) for host in "ab"] == [default] * 2
    for value in low, high, (low + high) // 2:
        lab.sysctl("a", **{name: value})
        assert [lab.read(host, name) for host in "ab"] == [str(value), default]
    for value in low - 1, high + 1, -1, 1 << 32, "x", "1x":
        lab.refuses("a", name, value)


@case
def unprivileged_counters(lab):
    """Anyone may read the counters, of their own namespace: those of the documentation"""
    table = DOCUMENTED.split("/proc/net/finetcp_stat\n=", 1)[1].split("\n\nModule parameter", 1)[0]
    names = re.findall(r"^([A-Z]\w+)  ", table, re.M)
    assert len(names) > 1
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
