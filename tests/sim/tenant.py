#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""What an unprivileged user can do who makes a user namespace and is root in there: nothing below the
host's floor, nothing to the host's settings, no look at the counters of others, and no more timers
than the silence of a peer or a device is worth."""

import contextlib
import ctypes
import errno
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, insmod, main, near, rmmod, within  # noqa: E402

FLOOR = 20              # us: the module's parameter
NOBODY = 65534
SYN_SENT = 2
TCP_RTO_MIN_US, TCP_DELACK_MAX_US = 45, 46
SETTINGS = {"tcp_rto_min": 200_000, "tcp_rto_min_us": 200_000, "tcp_rto_init": 1_000_000, "tcp_delack_min": 40_000,
            "tcp_backoff_max": 120_000_000}
libc = ctypes.CDLL(None, use_errno=True)
MS_REC, MS_PRIVATE, PR_SET_DUMPABLE = 0x4000, 0x40000, 4


def as_tenant(work, pids=False):
    """Run it as nobody, who is root of namespaces of his own: users, network, mounts, and processes if
    so asked. It fails by an exception"""
    child = os.fork()
    if child:
        near("exit status of the tenant", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, 0)
        return
    status = 1
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.prctl(PR_SET_DUMPABLE, 1)      # or /proc/self would still be root's
        os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET | os.CLONE_NEWNS | (os.CLONE_NEWPID if pids else 0))
        for name, text in ("setgroups", "deny"), ("uid_map", f"0 {NOBODY} 1"), ("gid_map", f"0 {NOBODY} 1"):
            pathlib.Path("/proc/self", name).write_text(text, encoding="ascii")
        if pids and (child := os.fork()):
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            work()
            status = 0
    except BaseException:
        print("# " + traceback.format_exc().replace("\n", "\n# "), flush=True)
    os._exit(status)


def setting(name):
    return pathlib.Path("/proc/sys/net/ipv4", name)


def refuses(write, error, *values):
    """It takes none of the values, and says why"""
    for value in values:
        try:
            write(value)
        except OSError as refused:
            near("the error", refused.errno, error, 0)
        else:
            raise AssertionError(f"it took {value}")


def counters(path="/proc/net/finetcp_stat"):
    return {name: int(value) for name, value in map(str.split, pathlib.Path(path).read_text(encoding="ascii").splitlines())}


@case(*SETTINGS)
def floor__of_a_setting(lab, name):
    """The tenant may set his own, down to the floor"""
    def work():
        near("at first", int(setting(name).read_text()), SETTINGS[name], 0)
        refuses(lambda value: setting(name).write_text(str(value)), errno.EINVAL, FLOOR - 1, 1, 0, -1, -(1 << 31), 1 << 32)
        setting(name).write_text(str(FLOOR))
        near("in the end", int(setting(name).read_text()), FLOOR, 0)

    before = lab.read("a", name)
    as_tenant(work)
    near("the host's", int(lab.read("a", name)), int(before), 0)


@case
def floor__of_a_socket(_):
    def work():
        with socket.socket() as s:
            for option in TCP_RTO_MIN_US, TCP_DELACK_MAX_US:
                refuses(lambda value, option=option: s.setsockopt(socket.IPPROTO_TCP, option, value), errno.EINVAL,
                        FLOOR - 1, 0, -1)
                s.setsockopt(socket.IPPROTO_TCP, option, FLOOR)
    as_tenant(work)


@case
def floor__of_the_module(_):
    """Who loads the module sets it, and nobody later, not even root"""
    files = list(pathlib.Path("/sys/module/finetcp").glob("parameters/*"))
    near("parameters that can be written", sum(file.stat().st_mode & 0o222 != 0 for file in files), 0, 0)


@case
def floor__raised_under_a_lower_setting(lab):
    """A namespace that was lower before the module came is treated as if it had the floor"""
    rmmod()
    try:
        lab.sysctl("a", tcp_rto_min_us=1, tcp_early_retrans=0)
        insmod("rto_min_floor=5000")
        wire = lab.capture()
        with lab.connect() as c:
            rto, rtt = c.info()
            near("tcpi_rto", rto, rtt + 5000)
            near("retransmission", c.lose_one(wire, 1.5 * rto)[0], rto)
    finally:
        insmod()


@case
def floor__above_a_route(lab):
    """What a route may ask of stock, it may ask with the module, too: the kernel's own timeout"""
    rmmod()
    try:
        insmod("rto_min_floor=5000")
        lab.sysctl("a", tcp_early_retrans=0)
        ip("-n", "a", "route", "change", "10.0.0.0/24", "dev", "e0", "rto_min", "2ms")
        wire = lab.capture()
        with lab.connect() as c:
            c.exchange(30)
            rto, rtt = c.info()
            near("tcpi_rto", rto, rtt + 2000)
            within("retransmission", c.lose_one(wire, 10_000)[0], rto, rto + 1000)
    finally:
        insmod()


@case
def settings__of_the_host(lab):
    """They are not his to write"""
    home = os.open("/proc/sys/net/ipv4", os.O_RDONLY)

    def work():
        for name in (*SETTINGS, "tcp_linear_timeouts", "tcp_rto_jitter", "tcp_delayed_ack", "tcp_limit_output_usecs",
                     "tcp_extra_run", "tcp_rto_variance_max"):
            # What was opened before belongs to the host's namespace.
            refuses(lambda value, name=name: os.close(os.open(name, value, dir_fd=home)), errno.EACCES, os.O_WRONLY)
    as_tenant(work)
    os.close(home)
    near("tcp_rto_min of a", int(lab.read("a", "tcp_rto_min")), 200_000, 0)


@case
def counters__of_others(lab):
    """In his own processes' /proc there are only his own"""
    def work():
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        near("mount", libc.mount(b"proc", b"/proc", b"proc", 0, None), 0, 0)
        seen = {str(p): counters(p) for p in pathlib.Path("/proc").glob("[0-9]*/net/finetcp_stat")}
        assert seen, "no counters at all"
        for path, values in seen.items():
            near(f"all that {path} counts", sum(values.values()), 0, 0)

    with lab.connect() as c:
        c.exchange(10)
        within("Sockets of a", lab.stat("a")["Sockets"], 1, 100)
        as_tenant(work, pids=True)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def tc(*words):
    subprocess.run(["tc", *words], check=True)


# what stands in the way of all that leaves: a device that takes its time, one that takes nothing, none
OBSTACLES = {
    "swallowed": ["netem", "loss", "100%"],
    "queued": ["netem", "delay", "1000s"],
    "refused": ["bfifo", "limit", "1"],
    "refused_later": ["netem", "loss", "100%"],
    "slow": ["tbf", "rate", "8bit", "burst", "2kb", "limit", "3kb"],
}


def check_silence(obstacle, seconds, count, least):
    """Connections with the shortest timeouts that there are, none of which gets anything through"""
    def work():
        ip("link", "set", "lo", "up")
        for name in "tcp_rto_min", "tcp_rto_init", "tcp_delack_min", "tcp_backoff_max":
            setting(name).write_text(str(FLOOR))
        setting("tcp_linear_timeouts").write_text("6")
        setting("tcp_orphan_retries").write_text("1")   # not to wait for what is closed in the end
        listener = socket.create_server(("127.0.0.1", 5000), backlog=count)
        pairs = [(socket.create_connection(("127.0.0.1", 5000)), listener.accept()[0]) for _ in range(count)]
        for a, b in pairs:
            for _ in range(30):
                a.send(b"x")
                b.recv(1)
        tc("qdisc", "replace", "dev", "lo", "root", *OBSTACLES[obstacle])
        before = counters()
        for a, _ in pairs:
            a.send(b"x" * 1000)
        if obstacle == "refused_later":
            tc("qdisc", "replace", "dev", "lo", "root", *OBSTACLES["refused"])
        time.sleep(seconds)
        grown = {name: value - before[name] for name, value in counters().items()}
        expiries = grown["TimersFired"] + grown["TimersEarly"]
        resent = struct.unpack_from("=I", pairs[0][0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]
        print(f"# {obstacle}: {expiries / count} expiries a connection, {resent} retransmissions", flush=True)
        within("expiries of a connection", expiries / count, least, 100)
        # What is stuck there would keep the namespace until it is let go.
        tc("qdisc", "del", "dev", "lo", "root")
    as_tenant(work)


@case(*OBSTACLES)
def silence(_, obstacle):
    """In ten seconds a timer expires some twenty times, after ever longer times; or twice a second, where
    the own device refuses what is sent again"""
    check_silence(obstacle, seconds=10, count=10, least=10)


@case
def silence__of_the_handshake(_, seconds=5, count=10):
    """A SYN that the own device refuses is tried again for seconds, as it is without the module, and not
    all the times that there are within a millisecond"""
    def work():
        ip("link", "set", "lo", "up")
        setting("tcp_rto_init").write_text(str(FLOOR))
        tc("qdisc", "replace", "dev", "lo", "root", *OBSTACLES["refused"])
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for s in sockets:
                s.setblocking(False)
                s.connect_ex(("127.0.0.1", 5000))
            time.sleep(seconds)
            for s in sockets:
                near("state", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0], SYN_SENT, 0)
            expiries = (counters()["TimersFired"] + counters()["TimersEarly"]) / count
            print(f"# {expiries} expiries a connection", flush=True)
            within("expiries of a connection", expiries, 10, 100)
    as_tenant(work)


if __name__ == "__main__":
    main()
