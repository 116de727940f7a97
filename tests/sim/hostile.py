#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""Peers that mean harm. Whatever they send, a retransmission comes when it is due; no packet of theirs
makes more than one timer expire; and silence is answered ever more rarely."""

import itertools
import os
import random
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import TICK, case, check_waits, main, near, waits, within  # noqa: E402
from peer import ACK, MSS, RST, SYN, Peer, now_us  # noqa: E402

RTT = 100               # us
RTO_MIN = 1000          # us
FLOOR = 20              # us: the module's parameter
MANY = 1000
LISTENED = 8000         # a port


def settings(lab, rto_min=RTO_MIN, **more):
    lab.sysctl("a", tcp_rto_min=rto_min, **{"tcp_early_retrans": 0, **more})


def expired(lab):
    return lab.stat()["TimersFired"] + lab.stat()["TimersEarly"]


def lose_one(peer):
    """a sends a segment that gets no answer; returns where it begins, when it was sent, the timeout"""
    done = peer.exchange()
    rto = peer.info()[0]
    peer.write(b"x" * MSS)
    segment = peer.next(RTT)
    near("the segment", peer.place(segment), done, 0)
    return done, segment.at, rto


# name: what is sent when the segment at `at` waits for its acknowledgement
FORGERIES = {
    "never_sent": lambda peer, at, n: peer.send(at + MSS + 1 + n),
    "half_the_space_ahead": lambda peer, at, n: peer.send(at + (1 << 31) - n),
    "long_ago": lambda peer, at, n: peer.send(at - 1 - n),
    "again": lambda peer, at, n: peer.send(at),
    "other_windows": lambda peer, at, n: peer.send(at, window=1000 + n),
    "closed_window": lambda peer, at, n: peer.send(at, window=0 if n < MANY - 1 else 60_000),
    "sacks_of_nothing": lambda peer, at, n: peer.send(at, sacked=[(at + 2 * MSS + n, at + 2 * MSS + n + 1)]),
    "sacks_turned_round": lambda peer, at, n: peer.send(at, sacked=[(at + MSS, at + n % MSS)]),
    "sacks_of_the_past": lambda peer, at, n: peer.send(at, sacked=[(at - n - 1, at - n)]),
    "resets": lambda peer, at, n: peer.send(at, flags=RST | ACK, seq=1 + n),
    "syns": lambda peer, at, n: peer.send(at, flags=SYN, seq=n),
    "data_beyond_the_window": lambda peer, at, n: peer.send(at, seq=(1 << 20) + n, data=b"y"),
}


@case(*FORGERIES)
def flood(lab, name):
    """A thousand of them in the time that a waits: they neither hasten nor delay it"""
    settings(lab)
    with Peer(lab, RTT) as peer:
        at, sent, rto = lose_one(peer)
        before = expired(lab)
        for n in range(MANY):
            peer.later((rto - 100) * n / MANY, lambda n=n: FORGERIES[name](peer, at, n))
        # What a closed window has refused waits for the kernel's own timeout.
        wanted = 200_000 + RTT if name == "closed_window" else rto
        again = [s for s in peer.all(1.5 * wanted) if s.data]
        near("retransmissions", len(again), 1, 0)
        near("the first one after", again[0].at - sent, wanted, TICK if wanted > rto else 5)
        # More than two ticks ahead, the wheel's comes first.
        near("expiries", expired(lab) - before, 1 if wanted == rto else 2, 1)


@case("sack", "no_sack")
def acks_by_the_byte(lab, kind):
    """Each is progress, and moves the deadline: while they come nothing is sent again, and no timer
    expires for them"""
    settings(lab)
    with Peer(lab, RTT, sack=kind == "sack") as peer:
        at, sent, rto = lose_one(peer)
        before = expired(lab)
        for n in range(MSS - 1):
            peer.later(n * 0.5, lambda n=n: peer.send(at + n + 1))
        again = [s for s in peer.all(3 * rto) if s.data]
        within("the first retransmission after", again[0].at - sent, rto - 1, rto + MSS)
        near("retransmissions", len(again), 1, 1)
        within("expiries", expired(lab) - before, 1, 3)


@case(0, 1, 3)
def tiny_sacks(lab, holes):
    """A byte at a time, of all that was sent but for some: each segment that is missing is sent again
    once in a round trip at most, and no packet makes more than one timer expire"""
    settings(lab, rto_min=FLOOR)
    with Peer(lab, RTT) as peer:
        done = peer.exchange(100)
        peer.write(b"x" * 10 * MSS)
        first = [s for s in peer.all(10) if s.data]
        near("segments", len(first), 10, 0)
        before, packets = expired(lab), peer.sent
        began = now_us()
        for n in range(MANY):
            at = done + holes * MSS + n * (10 - holes) * MSS // MANY
            peer.later(n, lambda at=at: peer.send(done, sacked=[(at, at + 1)]))
        again = {}
        for s in peer.all(MANY):
            if s.data:
                again.setdefault(peer.place(s), []).append(s.at)
        for place, times in again.items():
            gaps = [later - earlier for earlier, later in zip([began] + times, times)]
            within(f"byte {place} again after", min(gaps[1:], default=RTT), RTT - 1, 10**6)
        within("expiries", expired(lab) - before, 0, peer.sent - packets + 10)


@case
def flapping_window(lab):
    """Closed, open, closed: each opening is used, and no timer expires more often than that"""
    settings(lab, rto_min=FLOOR)
    with Peer(lab, RTT) as peer:
        done = peer.exchange()
        before, packets = expired(lab), peer.sent
        peer.write(b"x" * 50 * MSS)
        for n in range(MANY):
            peer.later(n * 5, lambda n=n: peer.send(done, window=(0, MSS, 1)[n % 3]))
        peer.all(5 * MANY)
        within("expiries", expired(lab) - before, 0, peer.sent - packets)


@case("shrunk", "silent")
def nothing_gets_through(lab, kind):
    """A window that was there and is none any more: it is asked after as on any kernel, after 200 ms and
    twice that. Or no answer at all: early timeouts, each twice the one before, and then the same"""
    settings(lab, rto_min=FLOOR)
    with Peer(lab, RTT) as peer:
        at, sent, rto = lose_one(peer)
        rtt = peer.info()[1]
        if kind == "shrunk":
            peer.send(at, window=0)
        before = expired(lab)
        times = [sent]
        while now_us() < sent + 20 * 10**6:
            if (s := peer.next(20 * 10**6)) and s.data:
                times.append(s.at)
                if kind == "shrunk":
                    peer.send(at, window=0)
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        if kind == "shrunk":
            near("the first one after", gaps.pop(0), 200_000 + rtt, TICK)
            rto = 10**6         # no early one
            wanted = itertools.islice(waits(rto, rtt), 1, None)
        else:
            wanted = waits(rto, rtt)
        check_waits(gaps, wanted)
        within("retransmissions", len(times), *{"shrunk": (6, 8), "silent": (16, 22)}[kind])
        within("expiries", expired(lab) - before, 5, 2 * len(times) + 2)


@case
def reneging(lab):
    """What was said to be here is not. A sender has to wait 10 ms in case it is (tcp_check_sack_reneging())"""
    settings(lab)
    with Peer(lab, RTT) as peer:
        done = peer.exchange()
        peer.write(b"x" * 5 * MSS)
        near("segments", len([s for s in peer.all(RTT) if s.data]), 5, 0)
        peer.send(done, sacked=[(done + MSS, done + 5 * MSS)])
        near("retransmissions of the hole", len([s for s in peer.all(RTT) if s.data]), 1, 0)
        peer.send(done + MSS)
        sent = now_us()
        again = [s for s in peer.all(12_000) if s.data]
        near("what is sent again first", peer.place(again[0]), done + MSS, 0)
        near("after", again[0].at - sent, 10_000, 10)


@case("ahead", "behind", "random", "none")
def forged_time_stamps(lab, kind):
    """They may lengthen the timeout, up to the truth's order of magnitude, and never shorten it below
    the floor"""
    settings(lab)
    chance = random.Random(1)
    with Peer(lab, RTT, time_stamps=True) as peer:
        done = 0
        for _ in range(100):
            peer.write(b"x" * peer.mss)
            segment = peer.next(10**6)
            done = peer.place(segment) + peer.mss
            stamp = segment.time_stamp()
            echo = {"ahead": stamp + 1000, "behind": stamp - 1, "random": chance.randrange(1 << 32), "none": 0}[kind]
            peer.later(RTT, lambda echo=echo: peer.send(done, echo=echo % (1 << 32)))
            peer.all(RTT + 10)
        rto = peer.info()[0]
        within("tcpi_rto", rto, RTO_MIN, RTO_MIN + 3 * RTT)
        peer.write(b"x" * peer.mss)
        sent = peer.next(RTT).at
        near("retransmission after", [s for s in peer.all(2 * rto) if s.data][0].at - sent, rto)


@case
def forged_syns(lab, count=100):
    """Whose senders do not exist: with the shortest timeout each is answered 14 times more than on stock,
    each time after twice the time, and forgotten at the same time"""
    with lab.on("a"):
        listener = socket.create_server(("10.0.0.1", LISTENED), backlog=2 * count)
    answers = {}
    with Peer(lab, RTT) as peer, listener:
        settings(lab, tcp_rto_init=FLOOR, tcp_syncookies=0)
        for n in range(count):
            peer.raw(1000 + n, LISTENED, seq=n, flags=SYN, to="10.0.0.1", options=struct.pack("!BBH", 2, 4, MSS))
        for s in peer.all(130 * 10**6):
            if s.flags == SYN | ACK:
                answers.setdefault(s.to, []).append(s.at)
        near("senders that got an answer", len(answers), count, 0)
        for times in answers.values():
            # The first, 14 with waits from 20 us on but below 200 ms, and tcp_synack_retries
            near("answers", len(times), 1 + 14 + 5, 0)
            gaps = [later - earlier for earlier, later in zip(times, times[1:])]
            for n, gap in enumerate(gaps):
                if FLOOR << n < 200_000:
                    near(f"gap {n + 1}", gap, FLOOR << n, 200)


if __name__ == "__main__":
    # Or a wait is rounded up by 50 us.
    with open("/proc/self/timerslack_ns", "w", encoding="ascii") as slack:
        slack.write("1")
    main()
