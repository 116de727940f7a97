#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
# guest: --kernel patched
"""A sender against receivers that do what comes to their mind: they lose, delay, reorder, acknowledge
by the byte, lie about what they have, take it back, shrink the window, forge acknowledgements and time
stamps, or say nothing. Each is made by a seed, which is in the name of the case.

Whatever it does: the bytes are those that were written, none is sent that no window ever allowed, what
a timer sends again comes no earlier than the settings allow and in silence after ever longer times, and
once the receiver behaves the rest arrives, and the connection ends.

RECEIVERS=FIRST:LAST chooses other seeds."""

import collections
import os
import random
import socket
import sys
from array import array

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from lab import case, main, near, within  # noqa: E402
from peer import ACK, FIN, MODULUS, MSS, Peer, now_us  # noqa: E402

FIRST, LAST = map(int, os.environ.get("RECEIVERS", "1:100").split(":"))
SIZE = 60_000           # bytes, and as long as the first two thirds take there is no order
PATIENCE = 3_000_000    # us: or that long
AT_ONCE = 3             # us: what is sent within that of something, is because of the same
TIME_WAIT = 6
LONGEST_SAMPLE_MS = 2_200_000   # tcp_rtt_tsopt_us(): what is longer overflows
SECOND = 1_000_000      # us: from there on, the wheel rounds


class Receiver:
    def __init__(self, lab, seed):
        self.random = random.Random(seed)
        pick = self.random.choice
        self.rtt = pick((20, 50, 200, 2000))
        self.rto_min = pick((20, 50, 200, 1000, 20_000, 200_000))
        self.linear = pick((0, 0, 0, 3, 6))
        self.sack, self.stamps = pick((True, False)), pick((True, False, False))
        lab.sysctl("a", tcp_rto_min=self.rto_min, tcp_linear_timeouts=self.linear, tcp_rto_jitter=pick((0, 0, 10, 100)),
                   tcp_early_retrans=pick((0, 3)), tcp_thin_linear_timeouts=0)
        self.data = self.random.randbytes(SIZE)
        self.last_sent = array("d", bytes(8 * SIZE))
        self.highest = 0        # what a has sent ends here
        self.written = 0
        self.kept = []          # ranges received, in order, apart
        self.acked = 0
        self.edge = 0           # no window ever reached further
        self.least_rtt = self.rtt       # the handshake's
        self.stimulus = 0       # when a last had a reason to send other than its timers
        self.busy = 0           # when that happened, or a sent something
        self.timeouts = []      # (when, gap) of what timers sent since
        self.moods = [self.honest, self.lossy, self.slow, self.stingy, self.liar, self.reneger, self.shrinker,
                      self.forger, self.silent]
        self.mood, self.left = self.honest, 0
        self.stamp = None
        self.peer = Peer(lab, self.rtt, self.sack, self.stamps)
        self.log = collections.deque(maxlen=60)
        self.began = now_us()

    def note(self, text):
        self.log.append(f"{now_us() - self.began:.0f} us: {text}")

    # What it has

    def have(self):
        """All before this has been received"""
        return self.kept[0][1] if self.kept and self.kept[0][0] == 0 else 0

    def keep(self, begin, end):
        """Receive a range"""
        joined = []
        for b, e in self.kept:
            if e < begin or b > end:
                joined.append((b, e))
            else:
                begin, end = min(b, begin), max(e, end)
        self.kept = sorted(joined + [(begin, end)])

    # What it sends

    def answer(self, ack=None, window=60_000, sacked=()):
        ack = self.have() if ack is None else ack
        ack = min(max(ack, self.acked), self.have())
        before, self.acked = self.acked, ack
        self.edge = max(self.edge, ack + window)
        self.tell(ack, window, sacked, [(before, ack)])

    def tell(self, ack, window, sacked, samples=()):
        """Any lie or truth. a may take a sample of the round trip from what it has sent"""
        for begin, end in [*samples, *sacked]:
            if latest := max(self.last_sent[max(begin, 0):max(end, 0)], default=0):
                self.least_rtt = min(self.least_rtt, now_us() - latest)
        self.note(f"the peer, {self.mood.__name__}: ack {ack}, window {window}, sacked {sacked}")
        self.stimulus, self.timeouts = now_us(), []
        self.peer.send(ack, window, sacked=sacked[:3] if self.sack else (), echo=self.echo())

    def echo(self):
        """Of a time stamp, if there are any: mostly what it should be. Else none that makes a sample, for a
        believes one of half an hour"""
        if not self.stamp or self.random.random() < 0.9:
            return self.stamp
        return (self.stamp + self.random.randrange(1, (1 << 32) - LONGEST_SAMPLE_MS)) % MODULUS

    def after(self, us, **how):
        self.peer.later(us, lambda: self.answer(**how))

    # Its moods. Each is told where a segment begins and ends

    def honest(self, begin, end):
        self.keep(begin, end)
        self.after(self.rtt, sacked=self.kept[1:4] if self.kept[0][0] == 0 else self.kept[:3])

    def lossy(self, begin, end):
        if self.random.random() < 0.6:
            self.honest(begin, end)

    def slow(self, begin, end):
        self.keep(begin, end)
        self.after(self.random.uniform(0, 10 * self.rtt), sacked=self.kept[-2:])

    def stingy(self, begin, end):
        """By the byte, and many times"""
        self.keep(begin, end)
        for _ in range(self.random.randrange(1, 6)):
            self.after(self.random.uniform(self.rtt / 4, 2 * self.rtt), ack=self.acked + self.random.choice((0, 1, 2, 7)),
                       sacked=[(end - 1, end)])

    def liar(self, begin, end):
        """Whatever a has sent may be said to be here"""
        if self.random.random() < 0.5:
            self.keep(begin, end)
        some = sorted(self.random.randrange(self.acked, self.highest + 1) for _ in range(4))
        self.after(self.random.uniform(self.rtt / 4, self.rtt), ack=self.acked, sacked=[some[:2], some[2:]])

    def reneger(self, begin, end):
        """All is said to be here but the first, and then forgotten"""
        self.after(self.rtt, ack=self.acked, sacked=[(begin, end)])
        self.kept = self.kept[:1] if self.have() else []

    def shrinker(self, begin, end):
        self.keep(begin, end)
        self.after(self.rtt, window=self.random.choice((0, 0, 1, MSS - 1, 3 * MSS)))

    def forger(self, begin, end):
        """Of what was never sent, of long ago, with ranges that make no sense"""
        self.lossy(begin, end)
        for _ in range(3):
            odd = self.random.choice((1, -1)) * self.random.choice((1, 1000, 10**6, 10**9, 2**31 - 1))
            self.peer.later(self.random.uniform(0, 2 * self.rtt), lambda odd=odd: self.forge(self.highest + odd))

    def forge(self, ack):
        # What a has sent, its FIN too, must not be acknowledged before it is here: it would be gone.
        if not self.acked < ack <= self.highest + 1:
            self.tell(ack, self.random.randrange(60_000), [(ack - 100, ack + 100), (ack + 9, ack)])

    def silent(self, begin, end):
        pass

    # What it sees

    def check(self, segment):
        """And keep when it came"""
        begin, end = self.peer.place(segment), self.peer.place(segment) + len(segment.data)
        self.note(f"a: {begin} to {end}")
        if segment.data != self.data[begin:end]:
            raise AssertionError(f"other bytes at {begin}")
        if end > max(self.edge, self.peer.window):
            raise AssertionError(f"bytes to {end}, beyond the window, which ended at {self.edge}")
        if begin < self.highest and segment.at - max(self.busy, self.stimulus) > AT_ONCE:
            self.check_timeout(begin, segment.at)
        self.busy = segment.at
        self.last_sent[begin:end] = array("d", [segment.at]) * (end - begin)
        self.highest = max(self.highest, end)
        return begin, end

    def check_timeout(self, begin, at):
        """A timer has sent it again"""
        gap = at - self.last_sent[begin]
        rtt = 0 if self.stamps else self.least_rtt
        # A loss probe or the end of a reordering window, which only SACK has, come sooner.
        within(f"byte {begin} again after", gap, (rtt if self.sack else rtt + self.rto_min) - 1, 200 * SECOND)
        if self.timeouts and at - self.timeouts[-1][0] > AT_ONCE and not self.linear and not self.sack:
            last, before = self.timeouts[-1]
            # Jitter lengthens each by another part.
            within("the next timeout in silence", at - last, min(0.99 * before, SECOND), 200 * SECOND)
        self.timeouts.append((at, min(gap, at - self.stimulus)))

    # Its life

    def write(self):
        while self.written < SIZE:
            size = self.random.choice((1, 10, MSS, 3 * MSS, 10 * MSS))
            self.stimulus = now_us()
            took = self.peer.write(self.data[self.written:self.written + size])
            self.written += took
            if took < size or self.random.random() < 0.3:
                return
        if self.written == SIZE:
            self.written += 1
            self.peer.socket.shutdown(socket.SHUT_WR)

    def see(self, wait_us):
        """Look at what comes, and answer it"""
        segment = self.peer.next(wait_us)
        if not segment:
            return None
        self.stamp = segment.time_stamp()
        if len(segment.data):
            begin, end = self.check(segment)
            if self.left == 0:
                self.mood = self.random.choice(self.moods)
                self.left = self.random.randrange(1, 20)
            self.left -= 1
            self.mood(begin, end)
        return segment

    def live(self):
        with self.peer:
            self.edge = self.peer.window
            end = now_us() + PATIENCE
            while now_us() < end and self.have() < SIZE * 2 // 3:
                self.write()
                if not self.see(self.random.choice((self.rtt, 10 * self.rtt, 5 * self.rto_min))):
                    # Nothing comes any more: it may be the window's fault, or the mood's.
                    self.left = 0
                    if self.random.random() < 0.5:
                        self.answer(sacked=self.kept[-1:])
            self.behave()

    def behave(self):
        """From now on; until the end"""
        self.mood, self.left = self.honest, 10**9
        self.answer()
        deadline = now_us() + 600 * SECOND
        while True:
            self.write()
            segment = self.see(100_000)
            if now_us() > deadline:
                raise AssertionError(f"{self.have()} of {SIZE} bytes arrived, {self.highest} were sent")
            if not segment:
                self.answer(sacked=self.kept[1:])
            elif segment.flags & FIN and self.have() == SIZE:
                break
        self.peer.send(SIZE + 1, flags=ACK | FIN)
        self.peer.all(10_000)
        near("bytes after the last", self.highest, SIZE, 0)


@case(*range(FIRST, LAST + 1))
def receiver(lab, seed):
    r = Receiver(lab, seed)
    try:
        r.live()
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *r.log])) from error
    state = lab.sockets("a")[r.peer.port][3]
    near("state", int(state, 16), TIME_WAIT, 0)
    within("packets that a sent for each of the peer's and of the data", r.peer.received, 1,
           3 * (r.peer.sent + SIZE) + 100)


if __name__ == "__main__":
    # Or a wait is rounded up by 50 us.
    with open("/proc/self/timerslack_ns", "w", encoding="ascii") as slack:
        slack.write("1")
    main()
