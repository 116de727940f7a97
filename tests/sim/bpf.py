#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""What a BPF program says of a connection's timers (sock_ops), to the microsecond, and who goes
first: route, then socket option or BPF, then sysctl."""

import contextlib
import ctypes
import errno
import os
import platform
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import ADDRESS, LOST, TICK, case, main, near, run, set_tos, sleep_us, within  # noqa: E402

RTT = 50
ROUGHLY = 12            # us
SO_MARK = 36

# include/uapi/linux/bpf.h
SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
PROG_LOAD, PROG_ATTACH, PROG_DETACH = 5, 8, 9
PROG_TYPE_SOCK_OPS, ATTACH_SOCK_OPS = 13, 3
TIMEOUT_INIT, ACTIVE_ESTABLISHED, PASSIVE_ESTABLISHED = 1, 4, 5
SETSOCKOPT, GETSOCKOPT = 49, 57
RTO_MIN, DELACK_MAX = 1004, 1003
OPTIONS = {"rto_min": RTO_MIN, "delack_max": DELACK_MAX}


def bpf(command, attributes):
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(SYSCALL[platform.machine()], command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf()")
    return result


def instruction(code, to=0, source=0, offset=0, value=0):
    return struct.pack("=BBhi", code, to | source << 4, offset, value)


def program(event, body):
    """On that event, the body, which finds the context in r6; else nothing"""
    return b"".join([
        instruction(0xbf, 6, 1),                                # r6 = r1
        instruction(0x61, 2, 1),                                # r2 = ctx->op
        instruction(0x55, 2, 0, len(body) // 8, event),         # if r2 != event: leave
        body,
        instruction(0xb7, 0, 0, 0, 1),                          # r0 = 1
        instruction(0x95)])                                     # exit


def option(helper, level, name):
    """bpf_setsockopt() or bpf_getsockopt() with the int that lies on the stack"""
    return b"".join([
        instruction(0xbf, 1, 6),                                # r1 = ctx
        instruction(0xb7, 2, 0, 0, level),
        instruction(0xb7, 3, 0, 0, name),
        instruction(0xbf, 4, 10),                               # r4 = stack - 4
        instruction(0x07, 4, 0, 0, -4),
        instruction(0xb7, 5, 0, 0, 4),
        instruction(0x85, 0, 0, 0, helper)])


def on_stack(value):
    return instruction(0x62, 10, 0, -4, value)


RESULT_ON_STACK = instruction(0x63, 10, 0, -4)                  # *(u32 *)(r10 - 4) = r0
MARK = option(SETSOCKOPT, socket.SOL_SOCKET, SO_MARK)           # where a program can read it


def setting(name, us):
    """Set the option; what bpf_setsockopt() has returned is the socket's mark"""
    return on_stack(us) + option(SETSOCKOPT, socket.IPPROTO_TCP, name) + RESULT_ON_STACK + MARK


def reading(name, us):
    """Set the option; how it reads is the socket's mark"""
    return (on_stack(us) + option(SETSOCKOPT, socket.IPPROTO_TCP, name) + on_stack(-1) +
            option(GETSOCKOPT, socket.IPPROTO_TCP, name) + MARK)


def reply(value):
    return instruction(0xb7, 2, 0, 0, value) + instruction(0x63, 6, 2, 4)       # ctx->reply = value


@contextlib.contextmanager
def attached(event, body):
    """The program runs for every socket that is made meanwhile"""
    code = program(event, body)
    log = ctypes.create_string_buffer(1 << 16)
    code_buffer, license_buffer = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    try:
        loaded = bpf(PROG_LOAD, struct.pack(
            "=IIQQIIQII", PROG_TYPE_SOCK_OPS, len(code) // 8, ctypes.addressof(code_buffer),
            ctypes.addressof(license_buffer), 1, len(log), ctypes.addressof(log), 0, 0))
    except OSError as error:
        raise AssertionError(f"{error}\n{log.value.decode()}") from error
    group = os.open("/sys/fs/cgroup", os.O_RDONLY)
    try:
        bpf(PROG_ATTACH, struct.pack("=IIII", group, loaded, ATTACH_SOCK_OPS, 0))
        try:
            yield
        finally:
            bpf(PROG_DETACH, struct.pack("=IIII", group, loaded, ATTACH_SOCK_OPS, 0))
    finally:
        os.close(group)
        os.close(loaded)


def mark(s):
    return s.getsockopt(socket.SOL_SOCKET, SO_MARK)


@case(*OPTIONS)
def reads_as_it_was_set(lab, name):
    for us in 20, 137, 54321, 200_000:
        with attached(ACTIVE_ESTABLISHED, reading(OPTIONS[name], us)), lab.connect() as c:
            near("bpf_getsockopt()", mark(c.a), us, 0)


@case(*OPTIONS)
def refused(lab, name):
    for us, result in (20, 0), (19, -errno.EINVAL), (0, -errno.EINVAL), (-1, -errno.EINVAL), \
            (200_001, -errno.EINVAL), (2**31 - 1, -errno.EINVAL):
        with attached(ACTIVE_ESTABLISHED, setting(OPTIONS[name], us)), lab.connect() as c:
            near(f"bpf_setsockopt() to {us}", mark(c.a), result, 0)


@case(50, 4321, 200_000)
def rto_min__before_sysctl(lab, us):
    lab.sysctl("a", tcp_rto_min=300, tcp_early_retrans=0)
    wire = lab.capture()
    with attached(ACTIVE_ESTABLISHED, setting(RTO_MIN, us)), lab.connect() as c:
        lab.sysctl("a", tcp_rto_min=400)
        c.exchange(30)
        rto = c.info()[0]
        near("tcpi_rto", rto, RTT + us, ROUGHLY)
        near("retransmission", c.lose_one(wire, 1.5 * rto)[0], rto)


@case
def rto_min__passive(lab):
    """b's socket; a's has what the sysctl says"""
    with attached(PASSIVE_ESTABLISHED, setting(RTO_MIN, 321)), lab.connect() as c:
        c.exchange(10)
        near("TCP_RTO_MIN_US of b", c.b.getsockopt(socket.IPPROTO_TCP, 45), 321, 0)
        near("tcpi_rto of a", c.info()[0], RTT + 200_000, ROUGHLY)


@case
def rto_min__route_before_bpf(lab):
    run("ip", "-n", "a", "route", "change", "10.0.0.0/24", "dev", "e0", "rto_min", "7ms")
    with attached(ACTIVE_ESTABLISHED, setting(RTO_MIN, 50)), lab.connect() as c:
        near("tcpi_rto", c.info()[0], RTT + 7000, ROUGHLY)


@case(20, 137, 5000)
def delack_max__before_sysctl(lab, us):
    with attached(PASSIVE_ESTABLISHED, setting(DELACK_MAX, us)), lab.connect() as c:
        near("acknowledgement", lab.ack_delay(c), RTT + us, ROUGHLY)


# What BPF says, in ticks, against a tcp_rto_init in us
TIMEOUTS = {"shorter": (3, 1_000_000), "longer": (3, 50), "much_longer": (700, 5000), "on_the_wheel": (3000, 5000)}


@case(*TIMEOUTS)
def timeout_init__before_sysctl(lab, name):
    ticks, rto_init = TIMEOUTS[name]
    lab.sysctl("a", tcp_rto_init=rto_init, tcp_syn_linear_timeouts=0)
    lab.meet()
    wire = lab.capture(empty=True)
    with attached(TIMEOUT_INIT, reply(ticks)), lab.connecting(lost=True):
        sleep_us(ticks * TICK * 10)
        gaps = wire.gaps()
    near("retransmissions", len(gaps), 3, 0)
    for n, gap in enumerate(gaps):
        want = ticks * TICK << n
        within(f"SYN {n + 2}", gap, want - 5, want + 5 if want <= 1_000_000 else want * 9 / 8 + 2 * TICK)


@case("shorter", "much_longer")
def timeout_init__syn_ack(lab, name):
    """From the listener's queue, which waits on the timer wheel. None comes before"""
    ticks, rto_init = TIMEOUTS[name]
    lab.sysctl("b", tcp_rto_init=rto_init)
    lab.meet()
    wire = lab.capture(empty=True, incoming=True)
    with attached(TIMEOUT_INIT, reply(ticks)), lab.on("b"), socket.create_server(ADDRESS):
        with lab.connecting(lost=False) as s:
            set_tos(s, LOST)            # the answer to the SYN-ACK
            sleep_us(ticks * TICK * 10)
            gaps = wire.gaps()
    near("retransmissions", len(gaps), 3, 0)
    for n, gap in enumerate(gaps):
        want = ticks * TICK << n
        within(f"SYN-ACK {n + 2}", gap, want - TICK, want * 9 / 8 + 2 * TICK)


if __name__ == "__main__":
    main()
