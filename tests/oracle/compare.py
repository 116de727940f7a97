# SPDX-License-Identifier: GPL-2.0
"""Is what a kernel did in a scenario what stock would have done? One judge for each mode.

All times are in us. A judge returns the differences that it found; a rule that explains a
difference has a name, a reason, and is counted.
"""

import collections
import math
import re

from scenario import FAST

HZ = 1000
TICK = 10**6 // HZ              # us
# Each look at the clock takes the guest 256 ns, and the patched kernel looks at other places.
EXACT = LATE = 10
# The timer wheel rounds up to these, in ticks: (waits from, granularity)
WHEEL = ((0, 1), (63, 8), (504, 64), (4032, 512), (32_256, 4096), (258_048, 32_768), (2_064_384, 262_144))
FLOOR = 200_000                 # us: stock's shortest timeout
RTO_INIT = FAST["ipv4/tcp_rto_init"]

# Counters that say how, not what: how often the CPU, a timer or memory was looked at
UNCOUNTED = ("TcpExtTCPAutoCorking", "TcpExtTCPHystart", "TcpExtPFMemallocDrop", "TcpExtDelayedACKLocked",
             "TcpExtTW", "TcpExtTCPRcvCoalesce", "TcpExtTCPPureAcks", "TcpExtTCPHPAcks", "TcpExtTCPHPHits")

# What a DATA_FIN more or less makes of them
WORKER_COUNTERS = ("TcpInSegs", "TcpOutSegs", "MPTcpExtRcvWndShared", "TcpExtTCPFromZeroWindowAdv")

Difference = collections.namedtuple("Difference", "what connection host number")


class Story:
    """What happened in one run"""

    def __init__(self, found):
        self.found = found
        self.failed = found.get("failed")
        self.storm = found.get("storm")
        self.events = [[event[0] / 1000, *event[1:]] for event in found.get("trace", [])]
        self.sent = collections.defaultdict(list)       # (us, number, shape, fate), by (connection, host)
        self.local = collections.defaultdict(list)      # (us, identity), by (connection, host)
        self.app = collections.defaultdict(list)        # (us, what...), by (connection, host)
        self.gone = {}
        self.left_at = None
        for host in "ab":
            for connection in {event[3] for event in self.events}:
                self.local[connection, host].append((0, ("start",)))
        order = collections.Counter()
        for us, kind, host, connection, *more in self.events:
            key = connection, host
            if kind == "sent":
                self.sent[key].append((us, *more))
                identity = kind, more[0]
            elif kind == "got":
                order[key, more[0]] += 1
                identity = kind, more[0], order[key, more[0]]
            elif kind == "gone":
                self.gone[key] = us
                identity = (kind,)
            else:
                if more[0] == "left":
                    self.left_at = us
                if connection:
                    self.app[key].append((us, *more))
                order[key, more[0]] += 1
                identity = kind, more[0], order[key, more[0]]
            self.local[key].append((us, identity))

    def without_repeats(self):
        """The same without the repeated DATA_FINs of MPTCP, and without what its worker adds to bare ACKs"""
        found, kept = [], {}
        count = collections.Counter()
        for event in self.found["trace"]:
            us, kind, host, connection, *more = event
            if kind == "sent":
                number, shape, fate = more
                flags, length, options = shape[0], shape[3], shape[6]
                if not length and flags == "." and "mptcp-dss/24" in options:
                    continue
                if not length:
                    shape = [*shape[:6], " ".join(o for o in options.split() if not o.startswith("mptcp-dss"))]
                count[connection, host] += 1
                kept[connection, host, number] = count[connection, host]
                event = [us, kind, host, connection, count[connection, host], shape, fate]
            elif kind == "got":
                sender = connection, "b" if host == "a" else "a", more[0]
                if sender not in kept:
                    continue
                event = [us, kind, host, connection, kept[sender]]
            found.append(event)
        counters = {host: {name: value for name, value in values.items() if name not in WORKER_COUNTERS}
                    for host, values in self.found["counters"].items()}
        return Story({**self.found, "trace": found, "counters": counters})

    def when(self, key):
        """When each of a host's events of a connection was"""
        return {identity: us for us, identity in self.local[key]}


def text_of(event):
    us, kind, host, connection, *more = event
    if kind == "sent":
        number, (flags, seq, ack, length, window, ecn, options), fate = more
        what = f"{number:>3} {flags:<3} {seq}:{seq + length} ack {ack} win {window}" + (f" ecn {ecn}" if ecn else "") + \
            (f" <{options}>" if options else "") + (f"  [{fate}]" if fate else "")
    elif kind == "got":
        what = f"got {more[0]}"
    else:
        what = " ".join(map(str, more)) if kind == "app" else kind
    return f"{us:14.0f} {connection:<3}{host} {what}"


def side_by_side(stock, other, difference=None, lines=30, width=84):
    """Two traces of the connection in question, from a little before the first line that differs"""
    def chosen(story):
        return [e for e in story.events if e[1] != "got" and
                (difference is None or not difference.connection or e[3] in (difference.connection, ""))]

    def same(x, y):
        return x[1:] == y[1:] or (x[1:4] == y[1:4] and x[1] == "app" and x[4] == y[4] == "info")
    left, right = chosen(stock), chosen(other)
    first = next((i for i, (x, y) in enumerate(zip(left, right)) if not same(x, y)), min(len(left), len(right)))
    if difference is not None and difference.number is not None:
        for events in left, right:
            at = [i for i, e in enumerate(events) if e[1] == "sent" and e[2] == difference.host and e[4] == difference.number]
            first = min([first, *at])
    begin = 0 if difference is None else max(first - 6, 0)
    end = begin + lines if difference is not None else 10**9
    rows = []
    for i in range(begin, min(end, max(len(left), len(right)))):
        x = text_of(left[i]) if i < len(left) else ""
        y = text_of(right[i]) if i < len(right) else ""
        mark = " " if i < len(left) and i < len(right) and same(left[i], right[i]) else "|"
        rows.append(f"{x[:width]:<{width}} {mark} {y[:width]}")
    return rows


def wheel(wait):
    """How late stock may be with a timer of that length: it is rounded up to ticks, and again in the
    wheel. What is rounded first, to 200 ticks or more, is doubled afterwards"""
    ticks = wait / TICK
    return (1 + [grain for least, grain in WHEEL if ticks >= least][-1]) * TICK + wait * TICK / FLOOR


def same_run(stock, other, tolerance=EXACT):
    """The mode "patched": all is the same, to the microsecond"""
    found, near = [], {"rtt": tolerance, "ato": tolerance, "rto": tolerance + TICK}      # the last is in ticks
    for key in sorted(stock.sent.keys() | other.sent.keys()):
        ours, theirs = other.sent[key], stock.sent[key]
        for x, y in zip(theirs, ours):
            if x[2:] != y[2:] or abs(x[0] - y[0]) > tolerance:
                found.append(Difference(f"segment {x[1]} of {key[1]} is another, or at another time", *key, x[1]))
                break
        else:
            if len(ours) != len(theirs):
                found.append(Difference(f"{key[1]} sends {len(ours)} segments, not {len(theirs)}", *key,
                                        min(len(ours), len(theirs)) + 1))
    for key in sorted(stock.app.keys() | other.app.keys()):
        x, y = stock.app[key], other.app[key]
        if [e[1:] for e in x if e[1] != "info"] != [e[1:] for e in y if e[1] != "info"] or \
                any(abs(e[0] - f[0]) > tolerance for e, f in zip(x, y)):
            found.append(Difference(f"the program at {key[1]} sees something else", *key, None))
        for e, f in zip(x, y):
            if e[1] == f[1] == "info":
                wrong = {name: (e[2][name], f[2][name]) for name in e[2]
                         if abs(e[2][name] - f[2][name]) > near.get(name, 0)}
                if wrong:
                    found.append(Difference(f"TCP_INFO of {key[1]}: {wrong}", *key, None))
    for key in sorted(stock.gone.keys() | other.gone.keys()):
        if abs(stock.gone.get(key, -1e12) - other.gone.get(key, -1e12)) > tolerance:
            found.append(Difference(f"{key[1]}'s socket ends after {other.gone.get(key)} us, not {stock.gone.get(key)}",
                                    *key, None))
    return found + same_counters(stock, other)


def same_counters(stock, other):
    found = []
    for host in "ab":
        x, y = stock.found["counters"][host], other.found["counters"][host]
        wrong = {name: (x.get(name), y.get(name)) for name in sorted(x.keys() | y.keys())
                 if x.get(name) != y.get(name) and not name.startswith(UNCOUNTED)}
        if wrong:
            text = ", ".join(f"{name} {now}, not {was}" for name, (was, now) in wrong.items())
            found.append(Difference(f"counters of {host}: {text}", "", host, None))
    if stock.found["left"] != other.found["left"]:
        found.append(Difference(f"sockets left: {other.found['left']}, not {stock.found['left']}", "", "", None))
    return found


SHIFTS = 54             # a request's timeout in ticks is 1000 << that, and no more fits into 64 bits


def overflows(stock, difference):
    """Does stock itself no longer know how long to wait for a request (tcp_reqsk_timeout())?"""
    key = difference.connection, difference.host
    late = [c for (c, host), sent in stock.sent.items() if host == "b" and len(sent) > SHIFTS and
            all(shape[0].startswith("S.") for _, _, shape, _ in sent[1:])]
    if not late:
        return False
    return difference.number > SHIFTS if key[0] in late and difference.number else not key[0] or key[0] in late


def first_difference(stock, differences):
    """When it is, on stock; none if no segment is another"""
    return min((stock.sent[d.connection, d.host][d.number - 1][0] for d in differences
                if d.number and d.number <= len(stock.sent[d.connection, d.host])), default=None)


def after_a_rounding(stock, other, differences):
    """Has stock's wheel been late before the first difference, or a tick late in any case if that comes later
    here? What has come sooner here, and rightly so, meets what the programs do in another order"""
    when = first_difference(stock, differences) or 10**15
    later = any(d.number and d.number <= min(len(stock.sent[d.connection, d.host]), len(other.sent[d.connection, d.host])) and
                stock.sent[d.connection, d.host][d.number - 1][0] == when and
                other.sent[d.connection, d.host][d.number - 1][0] > when + LATE for d in differences)
    least = TICK if later else LATE
    return any(y[0] < x[0] - least for key in stock.sent
                                    for x, y in zip(stock.sent[key], other.sent[key]) if x[0] < when)


def in_one_step(stock, differences):
    """Is the first difference where timers of both hosts expire in the same step of stock's wheel?"""
    when = first_difference(stock, differences)
    return {host for (_, host), rows in stock.sent.items() if any(us == when for us, *_ in rows)} == {"a", "b"}


def between(stock, other, differences, offset, most=60):
    """Where a scenario would have to start for the wheel's steps to fall between what happens closely
    together where the two differ first: phases in us. offset: from a step to where one without a phase starts"""
    numbers = [d for d in differences if d.number is not None]
    times = [us for d in numbers for us, number, *_ in other.sent[d.connection, d.host] if number == d.number] + \
        [us for d in numbers for us, number, *_ in stock.sent[d.connection, d.host] if number == d.number]
    if not times:
        return []
    sent = sorted({us for rows in other.sent.values() for us, *_ in rows if us <= min(times)} | {min(times)})[-4:]
    sent += sorted({us for rows in other.sent.values() for us, *_ in rows if us > min(times)})[:2]
    found = []
    for n in sorted(range(len(sent) - 1), key=lambda n: abs(n - 3)):
        for tick in range(-2, 3):
            for part in 0, 250, 500, 750:
                found.append(int(-(sent[n] + sent[n + 1]) / 2 - offset + tick * TICK + part) % (4096 * TICK))
    return found[:most]


class Causes:
    """When may something happen that happens on stock at a time? What it waits for is some event at the
    same host before: from there it may be as much earlier as the timer wheel is late, and no later."""

    def __init__(self, stock, other, key, also=None):
        self.also = Causes(also, other, key) if also else None
        keys = [key]
        if any(name.startswith("m") for name, _ in stock.local):
            # Of MPTCP, what happens to one subflow may be the reason of what another does.
            keys = [each for each in stock.local if each[1] == key[1]]
        self.theirs = sorted((us, (each, identity)) for each in keys for us, identity in stock.local[each])
        self.ours = {(each, identity): us for each in keys for identity, us in other.when(each).items()}
        self.key = key
        self.times = stock.when(key)

    def allows(self, identity, ours):
        if self.also and self.also.allows(identity, ours):
            return True
        us, identity = self.times.get(identity), (self.key, identity)
        if us is None:
            return False
        known = False
        for when, cause in reversed(self.theirs):
            if when > us or cause == identity or cause not in self.ours:
                continue
            known = True
            if -wheel(us - when) - LATE <= (ours - self.ours[cause]) - (us - when) <= LATE:
                return True
        return not known and abs(us - ours) <= LATE


def as_stock(stock, other, also=None):
    """The mode "defaults": the same segments, none earlier than stock without its wheel, none later. Where
    stock has started at another phase of the wheel, the usual times are right, too: some timers are on
    the wheel in both"""
    found = []
    for key in sorted(stock.sent.keys() | other.sent.keys()):
        ours, theirs = other.sent[key], stock.sent[key]
        causes = Causes(stock, other, key, also)
        for x, y in zip(theirs, ours):
            if x[2:] != y[2:]:
                found.append(Difference(f"segment {x[1]} of {key[1]} is another", *key, x[1]))
                break
            if not causes.allows(("sent", x[1]), y[0]):
                found.append(Difference(f"segment {x[1]} of {key[1]} is {y[0] - x[0]:+.0f} us off", *key, x[1]))
                break
        else:
            if len(ours) != len(theirs):
                found.append(Difference(f"{key[1]} sends {len(ours)} segments, not {len(theirs)}", *key,
                                        min(len(ours), len(theirs)) + 1))
    for key in sorted(stock.app.keys() | other.app.keys()):
        found += same_program(stock, other, key, also)
    for key in sorted(stock.gone.keys() | other.gone.keys()):
        x, y = stock.gone.get(key), other.gone.get(key)
        if x is None or y is None or not Causes(stock, other, key, also).allows(("gone",), y):
            found.append(Difference(f"{key[1]}'s socket ends after {y} us, not {x}", *key, None))
    return found + same_counters(stock, other)


def same_program(stock, other, key, also):
    """The program sees the same in the same order, but what it reads at a time may come in other pieces"""
    def without_reads(story):
        return [e for e in story.app[key] if e[1] not in ("read", "info")]
    found, causes, order = [], Causes(stock, other, key, also), collections.Counter()
    x, y = without_reads(stock), without_reads(other)
    if [e[1:] for e in x] != [e[1:] for e in y]:
        first = next((i for i, (e, f) in enumerate(zip(x, y)) if e[1:] != f[1:]), min(len(x), len(y)))
        return [Difference(f"the program at {key[1]} sees {y[first][1:] if first < len(y) else 'nothing'}, not "
                           f"{x[first][1:] if first < len(x) else 'nothing'}", *key, None)]
    for e, f in zip(x, y):
        order[e[1]] += 1
        if e[1] == "does":          # when the script says so
            continue
        if not causes.allows(("app", e[1], order[e[1]]), f[0]):
            found.append(Difference(f"the program at {key[1]} sees {e[1:]} after {f[0]:.0f} us, not {e[0]:.0f}", *key, None))
            break
    infos = [[e for e in story.app[key] if e[1] == "info"] for story in (stock, other)]
    for e, f in zip(*infos):
        wrong = {name: (e[2][name], f[2][name]) for name in ("state", "options", "backoff", "retransmits", "probes", "cwnd",
                                                             "ssthresh", "snd_mss", "total_retrans", "unacked")
                 if e[2][name] != f[2][name]}
        # It follows from all round trips, and so from how long each ACK was delayed.
        if abs(f[2]["rto"] - e[2]["rto"]) > max(20 * TICK, e[2]["rto"] / 8):
            wrong["rto"] = e[2]["rto"], f[2]["rto"]
        if wrong:
            found.append(Difference(f"TCP_INFO of {key[1]}: {wrong}", *key, None))
    return found


# Modes whose times are others

# Retransmissions of a segment in any 200 ms: three that are not doubled, six more of thin streams, three up
# to tcp_backoff_max, 32 there, and eight until 200 ms are over. Also what there may be in all beyond stock's.
EARLY_PIECES = EARLY_IN_ALL = 52
SOONER = 10_000         # us: by how much a connection may be given up sooner, besides
LATEST_ACK = 45_000     # us: by how much stock delays an ACK, with what the wheel rounds
RESET = {"EPIPE": "ECONNRESET"}     # which of the two depends on what came before the reset


def outcome(story, key):
    """What came of an end of a connection: (how it ended, when, bytes sent, bytes received)"""
    how = when = None
    sent = received = 0
    eof = False
    for us, what, *more in story.app[key]:
        if what == "ends":
            how, sent, received, when = more[0], more[1], more[2], us
        elif what == "read":
            received = max(received, more[0])
        eof = eof or what == "eof"
    return how, when, sent, received, eof


def began(story, key):
    return story.sent[key][0][0] if story.sent[key] else 0


def peer_of(key):
    return key[0], "b" if key[1] == "a" else "a"


def acked_by(story, key):
    """What each segment of a host's peer acknowledges when it arrives, by its number"""
    changed = {number: re.search(r"\back (\d+)", fate) for _, number, _, fate in story.sent[peer_of(key)]}
    return {number: int(changed[number][1]) if changed[number] else shape[2]
            for _, number, shape, _ in story.sent[peer_of(key)]}


def given_up(story, key):
    """Was the socket given up, for nobody answered? Then when"""
    if key not in story.gone:
        return None
    end = story.gone[key]
    got = {identity[1] for us, identity in story.local[key] if identity[0] == "got" and us <= end}
    mine = [shape for us, _, shape, _ in story.sent[key] if us <= end]
    if any("R" in shape[0] for shape in mine) or \
            any("R" in shape[0] for _, number, shape, _ in story.sent[peer_of(key)] if number in got) or \
            any(e[1] == "does" and e[2] == "abort" for e in story.app[key]):
        return None
    acked = max((ack for number, ack in acked_by(story, key).items() if number in got), default=0)
    sent = max((shape[1] + shape[3] + ("F" in shape[0]) + ("S" in shape[0]) for shape in mine), default=0)
    return end if acked < sent else None


def rounding(story, key, end):
    """By how much the timer wheel has put off an end that comes after a chain of timeouts"""
    times = [us for us, *_ in story.sent[key] if us < end] + [end]
    return sum(wheel(b - a) for a, b in zip(times, times[1:]) if b - a > FLOOR / 2)


LONGEST = 120_000_000      # us: TCP_RTO_MAX


def as_many_timeouts(stock, other, key, x, y):
    """Is a socket given up sooner than on stock, at x, for the reason alone that the round trips that it has
    measured are shorter, without the delays of ACKs? Then as many timeouts have passed until y"""
    theirs, ours = waits_in_silence(stock, key), waits_in_silence(other, key)
    if not theirs or not ours:
        return False
    times = [us for us, _ in theirs[-1][1] if us < x] + [x]
    waits = [b - a for a, b in zip(times, times[1:])]
    number = 1
    while number < len(waits) and (waits[-number] > 1.8 * waits[-number - 1] or waits[-number] > 0.99 * LONGEST):
        number += 1
    if number == 1 < len(waits):
        return False        # a time decides, not a count
    return y - ours[-1][1][0][0] >= sum(min(FLOOR << n, LONGEST) for n in range(number)) - SOONER


def just_missed(other, key, x, y):
    """Has a socket sent for the last time just before it is given up on stock, at x, and so waits once more?"""
    return 0.9 * x < last_sent(other, key, y) <= x


def last_sent(story, key, end):
    """When a host has sent for the last time before a moment what is to be acknowledged"""
    return max((us for us, _, shape, _ in story.sent[key] if us < end and waits_for_an_answer(shape)), default=0)


def too_soon_for_the_path(stock, other, key):
    """Is a socket given up that is not on stock, for something came a little before the path lets it through, and
    on stock a little after? The last timeout, which the timer wheel has put off there, or an ACK that was delayed"""
    y = given_up(other, key)
    if y is None or given_up(stock, key) is not None:
        return False
    last = last_sent(other, key, y)
    if any(last < us <= min(last + rounding(stock, key, us) + SOONER, y)
           for us, _, shape, _ in stock.sent[key] if waits_for_an_answer(shape)):
        return True
    passed = {shape[2]: us for us, _, shape, fate in reversed(stock.sent[peer_of(key)]) if not fate}
    return any(us < passed.get(shape[2], 0) <= us + LATEST_ACK and us <= y - FLOOR
               for us, _, shape, fate in other.sent[peer_of(key)] if "lost" in fate or "ack" in fate)


def window_closed(story, key):
    """When the last window of 0 arrived at a host, if nothing came after it"""
    closes = {number: shape[4] == 0 for _, number, shape, _ in story.sent[peer_of(key)]}
    end, when = outcome(story, key)[1], None
    for us, identity in story.local[key]:
        if identity[0] == "got" and us <= end:
            when = (us if when is None else when) if closes.get(identity[1]) else None
    return when


def closed_sooner(stock, other, key):
    """Has a window closed sooner than the same on stock, and stayed so for 200 ms and more until the end?"""
    when, end = window_closed(other, key), outcome(other, key)[1]
    if when is None or end - when < FLOOR:
        return False
    number = max((n for us, n, shape, _ in other.sent[peer_of(key)] if shape[4] == 0 and us < when), default=0)
    ack = next((shape[2] for _, n, shape, _ in other.sent[peer_of(key)] if n == number), None)
    return any(shape[4] == 0 and shape[2] == ack and us > when for us, _, shape, _ in stock.sent[peer_of(key)])


def since_when(story, key, end):
    """When the oldest was sent of what a host has not had acknowledged at a moment; none: at that moment"""
    rows = {what: times for what, times in repeats(story, key).items() if times[0][0] < end}
    last = max((acked for _, acked in rows), default=0)
    return min((times[0][0] for (_, acked), times in rows.items() if acked == last), default=end)


def only_asks(story, key):
    """Is all that a host has sent acknowledged when its connection ends, but for probes of keepalive?"""
    theirs = acked_by(story, key)
    end = outcome(story, key)[1]
    acked = max((theirs[identity[1]] for us, identity in story.local[key]
                 if identity[0] == "got" and us <= end and identity[1] in theirs), default=0)
    return all(shape[1] + shape[3] <= acked for us, _, shape, _ in story.sent[key] if us <= end)


def lacks_sample(stock, other, key, most=0):
    """Was the handshake's round trip a sample on stock, but not here, for a host's part of it was sent again,
    and there are no time stamps?"""
    stamps = any("S" in shape[0] and "ts" in shape[6].split() for _, _, shape, _ in stock.sent[key[0], "b"])
    return not stamps and again(other, key, True) > 0 and again(stock, key, True) <= most


def ends_as_stock(stock, other, explained, most=1.1, slack=2_000_000):
    found, ended_early = [], set()
    for key in sorted(stock.app.keys() | other.app.keys()):
        theirs, ours = outcome(stock, key), outcome(other, key)
        origin = began(stock, (key[0], "a"))
        missed = too_soon_for_the_path(stock, other, key)
        if missed or too_soon_for_the_path(stock, other, peer_of(key)):
            explained["given up, for a timeout that is not rounded, or an ACK, comes before the path lets it through"] += missed
            continue
        if any(e[1] == "wrong" for e in other.app[key]):
            found.append(Difference(f"other bytes arrive at {key[1]}", *key, None))
        if RESET.get(theirs[0], theirs[0]) != RESET.get(ours[0], ours[0]):
            if theirs[0] is None or (theirs[0] in ("ETIMEDOUT", "EHOSTUNREACH", "ECONNRESET", "EPIPE") and
                                     ours[0] in ("closed", "aborted") and ours[3] >= theirs[3]):
                # A shorter timeout has met the path, or the other program, in a better moment.
                explained["got through where stock did not"] += 1
            elif ours[0] == "ETIMEDOUT" and theirs[0] in ("closed", "aborted") and \
                    theirs[1] - ours[1] <= rounding(stock, key, theirs[1]) + SOONER:
                explained["a timeout ends what stock's program closes before its wheel is there"] += 1
            elif ours[0] == "ETIMEDOUT" and theirs[0] in ("closed", "aborted") and closed_sooner(stock, other, key):
                explained["a timeout ends what waits for a window, for the ACK that closes it was not delayed"] += 1
                ended_early.update((key, peer_of(key)))
            elif ours[0] == "ETIMEDOUT" and theirs[0] in ("closed", "aborted") and \
                    only_asks(other, key) and not only_asks(stock, key):
                explained["keepalive ends what stock still sends again, for an ACK has come before an outage"] += 1
            else:
                found.append(Difference(f"{key[1]}'s end is {ours[0]}, not {theirs[0]}", *key, None))
            continue
        if key in ended_early:
            continue
        x, y = (outcome(story, peer_of(key))[:2] for story in (stock, other))
        if ours[3] < theirs[3] and not (x[0] and y[0] and x[0][0] == y[0][0] == "E" and y[1] < x[1]):
            # Else its peer has failed in both. When, is judged for itself.
            found.append(Difference(f"{key[1]} receives {ours[3]} bytes, not {theirs[3]}", *key, None))
        if theirs[4] and not ours[4] and lacks_sample(stock, other, peer_of(key)):
            explained["no sample from a handshake without time stamps"] += 1
        elif theirs[4] and not ours[4]:
            found.append(Difference(f"{key[1]} does not see the end of what it reads", *key, None))
        if theirs[0] and theirs[0].startswith("E"):
            took, was = ours[1] - origin, theirs[1] - origin
            if theirs[0] in ("ETIMEDOUT", "EHOSTUNREACH") and \
                    not was - rounding(stock, key, theirs[1]) - SOONER <= took <= was * most + slack and \
                    not (took < was and as_many_timeouts(stock, other, key, theirs[1], ours[1])) and \
                    not (took > was and (lacks_sample(stock, other, key) or just_missed(other, key, theirs[1], ours[1]) or
                                         only_asks(other, key) and not only_asks(stock, key))):
                found.append(Difference(f"{key[1]}'s end comes after {took / 1e6:.3f} s, not {was / 1e6:.3f}", *key, None))
        x, y = given_up(stock, key), given_up(other, key)
        if x is None or y is None or \
                x - rounding(stock, key, x) - SOONER <= y <= x + (x - origin) * (most - 1) + slack:
            pass
        elif y < x and as_many_timeouts(stock, other, key, x, y):
            explained["given up after as many timeouts, but shorter round trips"] += 1
        elif y > x and y - since_when(other, key, y) <= (x - since_when(stock, key, x)) * most + slack:
            explained["given up later, for an ACK has come before an outage, and less was to be sent again"] += 1
        elif y > x and just_missed(other, key, x, y):
            explained["given up a timeout later: shorter round trips, and so just too soon for the last one"] += 1
        elif y > x and lacks_sample(stock, other, key):
            # 3 s until there is one, as on stock if the request has been lost.
            explained["no sample from a handshake without time stamps"] += 1
        else:
            found.append(Difference(f"{key[1]} is given up after {(y - origin) / 1e6:.3f} s, not {(x - origin) / 1e6:.3f}",
                                    *key, None))
        if x is None and y is not None and key in stock.gone:
            found.append(Difference(f"{key[1]} is given up after {(y - origin) / 1e6:.3f} s, and not at all on stock",
                                    *key, None))
    for host in "ab":
        x, y = ([s for s in story.found["left"][host] if s[2] != 6] for story in (stock, other))
        if len(x) != len(y):
            found.append(Difference(f"sockets left at {host}: {y}, not {x}", "", host, None))
    return found


def waits_for_an_answer(shape):
    """Is a segment sent again until it is acknowledged?"""
    return bool(shape[3] or set("SF") & set(shape[0]))


def waits_in_silence(story, key):
    """Transmissions of the same segment while nothing comes: (its first byte, [(us, number)]), by the first"""
    rows, silent = [], {}
    for us, identity in story.local[key]:
        if identity[0] == "got" or identity[:2] in (("app", "icmp"), ("app", "reset"), ("app", "does")):
            silent = {}
        if identity[0] != "sent":
            continue
        number = identity[1]
        shape = story.sent[key][number - 1][2]
        if waits_for_an_answer(shape):
            if shape[1] not in silent:
                silent[shape[1]] = []
                rows.append((shape[1], silent[shape[1]]))
            silent[shape[1]].append((us, number))
    return rows


def storms(stock, other):
    """Between two signs of progress, no segment is sent again without bound"""
    found = []
    for key in sorted(other.sent):
        mine = repeats(other, key)
        most = max((len(times) for times in repeats(stock, key).values()), default=0)
        for (seq, _), times in mine.items():
            first = next((n for (a, n), (b, _) in zip(times, times[EARLY_PIECES:]) if b - a < FLOOR), None)
            if first is not None:
                found.append(Difference(f"{key[1]} sends segment {seq} again more than {EARLY_PIECES} times in 200 ms",
                                        *key, first))
                break
            if len(times) > most + EARLY_IN_ALL:
                found.append(Difference(f"{key[1]} sends segment {seq} {len(times)} times, stock any {most} times at most",
                                        *key, times[0][1]))
                break
    return found


def repeats(story, key):
    """When each segment was sent, by its first byte and what was acknowledged"""
    theirs, times, acked = acked_by(story, key), collections.defaultdict(list), 0
    for us, identity in story.local[key]:
        if identity[0] == "got":
            acked = max(acked, theirs.get(identity[1], 0))
        elif identity[0] == "sent":
            number = identity[1]
            shape = story.sent[key][number - 1][2]
            if waits_for_an_answer(shape):
                times[shape[1], acked].append((us, number))
    return times


def first_flight(story, key):
    """New segments with data that a host sends before the first of them is acknowledged or sent again,
    and whether it was the window that let it send no more"""
    theirs = acked_by(story, key)
    until = min((us for us, identity in story.local[key] if identity[0] == "got" and
                 theirs.get(identity[1], 0) > 1), default=10**15)
    flight = {}
    for us, _, shape, _ in story.sent[key]:
        if shape[3] and shape[1] in flight:
            until = min(until, us)
        if us >= until:
            break
        if shape[3] and "S" not in shape[0]:
            flight[shape[1]] = shape[3]
    written = sum(more[1] for us, what, *more in story.app[key] if what == "does" and more[0] == "write" and us < until)
    return len(flight), written > sum(flight.values())


NEGOTIATED = 1 | 2 | 4 | 8 | 32         # TCP_INFO: time stamps, SACK, window scaling, ECN, data in the SYN
# What segments show of what was negotiated. Some data has no room left for counters of marks, and what is sent
# before the first acknowledgement of MPTCP's is of MPTCP by another option.
CAPABLE = {"data that may be marked (ECN)": lambda shape: shape[3] and shape[5],
           "counters of marks (AccECN)": lambda shape: "acc" in shape[6] and "S" not in shape[0],
           "data or acknowledgements of MPTCP": lambda shape: "mptcp-dss" in shape[6],
           "data in a SYN": lambda shape: shape[3] and "S" in shape[0],
           "data with time stamps": lambda shape: shape[3] and "ts" in shape[6].split()}
MPTCP_COUNTERS = ("MPTcpExtMPCapableSYNRX", "MPTcpExtMPCapableACKRX", "MPTcpExtMPJoinAckRx")
MPTCP_FAULTS = ("MPTcpExtBlackhole", "MPTcpExtMPCapableSYNTXDisabled", "MPTcpExtMPCapableSYNTXDrop",
                "MPTcpExtMPCapableFallbackSYNACK", "MPTcpExtMPCapableFallbackACK",
                "TcpExtTCPFastOpenBlackhole", "TcpExtTCPACEFailSend")
GAINED = 8 | 32         # what stock gives up after SYNs that were lost: ECN, data in the SYN


def negotiated_as_stock(scenario, stock, other, explained):
    found = []
    # A shorter timeout gets through before the kernel's own, from which stock has learned.
    lost = any(again(stock, key, True) for key in stock.sent)
    hybla = any("hybla" in scenario["sysctl"][host].values() for host in "ab")
    for key in sorted(stock.app):
        for x, y in zip(*[[e for e in story.app[key] if e[1] == "info"] for story in (stock, other)]):
            # Of connections that stand; 2 and 3 are on their way there
            if x[2]["state"] in (2, 3, 7) or y[2]["state"] in (2, 3, 7):
                continue
            more, less = y[2]["options"] & ~x[2]["options"], x[2]["options"] & ~y[2]["options"]
            if lost and more & GAINED:
                explained["ECN or Fast Open, where stock's requests were lost"] += 1
                more &= ~GAINED
            if (more | less) & NEGOTIATED:
                found.append(Difference(f"TCP_INFO's options of {key[1]} are {y[2]['options']:#x}, not {x[2]['options']:#x}",
                                        *key, None))
                break
        for name, sends in CAPABLE.items():
            x, y = (any(sends(shape) for _, _, shape, _ in story.sent[key]) for story in (stock, other))
            if x and not y:
                found.append(Difference(f"{key[1]} sends no {name}", *key, None))
        (x, _), (y, limited) = first_flight(stock, key), first_flight(other, key)
        if y < x and limited and hybla and lacks_sample(stock, other, key):
            # Its first window depends on the round trip.
            explained["no sample from a handshake without time stamps"] += 1
        elif y < x and limited:
            found.append(Difference(f"{key[1]}'s first flight has {y} segments, not {x}", *key, None))
    for host in "ab":
        x, y = stock.found["counters"][host], other.found["counters"][host]
        for name in MPTCP_COUNTERS:
            if y.get(name, 0) < x.get(name, 0):
                found.append(Difference(f"{name} of {host} is {y.get(name, 0)}, not {x[name]}", "", host, None))
        # What stock does not serve with MPTCP, it does not send again so, either.
        same = all(stock.found["counters"][each].get(name, 0) == other.found["counters"][each].get(name, 0)
                   for each in "ab" for name in MPTCP_COUNTERS)
        for name in MPTCP_FAULTS + ("MPTcpExtMPTCPRetrans",) * same:
            if y.get(name, 0) > x.get(name, 0):
                found.append(Difference(f"{name} of {host} is {y[name]}, not {x.get(name, 0)}", "", host, None))
        # At other moments there may be one timeout more until the answer comes. Not two: each takes twice the time,
        # unless stock began with one that was doubled before. And as stock's wheel rounds, an eighth more fit in.
        name = "TcpExtTcpTimeoutRehash"
        was, now = x.get(name, 0), y.get(name, 0)
        rows = [[us for us, _ in times] for key in other.sent if key[1] == host
                for times in repeats(other, key).values() if len(times) > 1]
        doubled = sum(int(math.log2((times[-1] - times[0]) / FLOOR + 1)) + 1 for times in rows)
        if now > max(was + len(rows) + was // 8, doubled):
            found.append(Difference(f"{name} of {host} is {now}, not {was}", "", host, None))
    return found


def again(story, key, handshake):
    """How many segments of the handshake, or with data, were sent again"""
    seen, count = set(), 0
    for _, _, shape, _ in story.sent[key]:
        if ("S" in shape[0]) == handshake and (handshake or shape[3]):
            count += shape[1] in seen
            seen.add(shape[1])
    return count


LIFE = 15_000_000       # us: no MPTCP connection of a scenario is older
IN_HOST = "TcpExtTCPSpuriousRtxHostQueues"
FIRST_OF_THEIR_SIZE = 3     # segments that take a slow host longer than those before


def needless(scenario, stock, other):
    """Where the wire lets everything through in time, nothing is sent again that stock does not"""
    found = []
    rtt = sum(scenario["delay_us"].values())
    for key in sorted(other.sent):
        if (scenario["rules"] or scenario["inject"]) and key[0] not in scenario.get("steady", ()) or \
                key[1] == scenario.get("surprised"):
            continue
        for handshake, name in (True, "of the handshake"), (False, "with data"):
            # Nobody knows the path before the handshake is over.
            if handshake and rtt * 1.2 > RTO_INIT:
                continue
            x, y = again(stock, key, handshake), again(other, key, handshake)
            # A segment that is the first of its size may be one.
            if y > x + (FIRST_OF_THEIR_SIZE if "surprised" in scenario else 0):
                found.append(Difference(f"{key[1]} sends {y} segments {name} again, not {x}, and none was lost", *key, None))
    return found


def lost_in_the_host(scenario, stock, other):
    """No timeout takes for lost what the host still has. A loss probe may: that costs nothing"""
    found = []
    for host in "ab":
        x, y = (story.found["counters"][host].get(IN_HOST, 0) for story in (stock, other))
        if y > x and scenario["sysctl"][host].get("ipv4/tcp_early_retrans") == 0:
            found.append(Difference(f"{IN_HOST} of {host} is {y}, not {x}", "", host, None))
    return found


def quick_in_silence(story, key, least, wanted):
    """The first segment that is sent again in silence less than so many us after the last time, where both are
    wanted: its number"""
    for _, times in waits_in_silence(story, key):
        for (before, earlier), (us, number) in zip(times, times[1:]):
            if us - before < least and all(wanted(n, story.sent[key][n - 1][2]) for n in (earlier, number)):
                return number
    return None


def only_bpf_decides(scenario, stock, other):
    """Where BPF has set the timeout of the handshake, nothing comes before that"""
    found = []
    if "bpf_timeout_init" in scenario:
        for key in sorted(other.sent):
            least = min(scenario["bpf_timeout_init"] * TICK, FLOOR) - 2 * TICK
            numbers = [quick_in_silence(story, key, least, lambda _, shape: "S" in shape[0]) for story in (other, stock)]
            if numbers[0] and not numbers[1]:
                found.append(Difference(f"{key[1]} repeats a handshake's segment before BPF's timeout", *key, numbers[0]))
    return found


def closed_windows(stock, other):
    """What a closed window refuses is sent again no sooner than on stock"""
    def quick(story, key):
        closes = {number: "S" not in shape[0] and (shape[4] == 0 or fate.endswith("window 0"))
                  for _, number, shape, fate in story.sent[peer_of(key)]}
        closed, last = False, {}
        for us, identity in story.local[key]:
            if identity[0] == "got":
                closed = closes.get(identity[1], False)
                last = last if closed else {}
            elif identity[0] == "sent" and closed:
                shape = story.sent[key][identity[1] - 1][2]
                if shape[3] and us - last.get(shape[1], -FLOOR) < SILENT:
                    return identity[1]
                if shape[3]:
                    last[shape[1]] = us
        return None
    found = []
    for key in sorted(other.sent):
        number = quick(other, key)
        if number and not quick(stock, key):
            found.append(Difference(f"{key[1]} sends again into a closed window", *key, number))
    return found


def within_a_round_trip(scenario, stock, other):
    """No data is sent again by a timeout before an answer to the last time can be there. A loss probe, of the
    last segment, may come at the timeout of the first, whenever that last one was sent"""
    rtt = sum(scenario["delay_us"].values())
    found = []

    def quick(story, key):
        oldest = {number for (seq, acked), times in repeats(story, key).items() for _, number in times if seq == acked}
        return quick_in_silence(story, key, rtt, lambda n, shape: n in oldest and shape[3] and "S" not in shape[0])
    for key in sorted(other.sent):
        if lacks_sample(stock, other, key, most=10**6):
            continue        # nobody knows what a round trip takes
        number = quick(other, key)
        if number and not quick(stock, key):
            found.append(Difference(f"{key[1]} sends again before an answer can be there", *key, number))
    return found


def reduced_once(stock, other):
    """The window is reduced for a loss once, however often what was lost is sent again"""
    found = []
    for key in sorted(stock.app):
        peer = peer_of(key)
        if any(fate == "lost" for *_, fate in other.sent[peer]) or \
                len({shape[1] for _, _, shape, fate in other.sent[key] if fate == "lost" and shape[3]}) > 1:
            continue        # for each, unless they are of one flight
        for x, y in zip(*[[e[2] for e in story.app[key] if e[1] == "info"] for story in (stock, other)]):
            if y["ssthresh"] * 2 < x["ssthresh"] < 1 << 30:
                found.append(Difference(f"ssthresh of {key[1]} is {y['ssthresh']}, not {x['ssthresh']}", *key, None))
                break
    return found


def written_by_reading(other):
    return [Difference(f"TCP_INFO makes {key[1]} get timers", *key, None) for key in sorted(other.app)
            if any(e[1] == "written by reading" for e in other.app[key])]


def after_a_loss(stock, differences):
    """Was data lost on stock shortly before the first difference?"""
    when = first_difference(stock, differences) or 10**15
    return any(fate == "lost" and shape[3] and when - LIFE < us <= when
               for sent in stock.sent.values() for us, _, shape, fate in sent)


def as_good(scenario, stock, other):
    """The mode "defaults" where the times are another story: what is not as good as on stock, or sooner than
    any timeout of stock's"""
    return fast(scenario, stock, other, collections.Counter()) + as_long_as_stock(scenario, stock, other)


def fast(scenario, stock, other, explained):
    """The mode "fast": other times, and all else as on stock"""
    return ends_as_stock(stock, other, explained) + storms(stock, other) + \
        negotiated_as_stock(scenario, stock, other, explained) + needless(scenario, stock, other) + \
        only_bpf_decides(scenario, stock, other) + closed_windows(stock, other) + \
        within_a_round_trip(scenario, stock, other) + lost_in_the_host(scenario, stock, other) + reduced_once(stock, other) + written_by_reading(other)


SILENT = FLOOR - 2 * TICK


def quick_repeats(story, key, since):
    """Waits between retransmissions, in silence, that are shorter than any of stock's"""
    for _, times in waits_in_silence(story, key):
        # The first retransmission may be a probe, and the second wait may have begun before.
        late = [(us, n) for us, n in times[1:] if us > since]
        for (a, _), (b, number) in zip(late[1:], late[2:]):
            if b - a < SILENT:
                return b - a, number
    return None


def soon_again(story, key, probes=True, since=None):
    """The first segment that is sent again less than 200 ms after its first time, in silence, and not by what
    may be a loss probe: its number. since: only what was sent before that and is sent again for the first time
    after it."""
    for _, times in waits_in_silence(story, key):
        for n, (us, number) in enumerate(times):
            if not n or since is not None and not us > since >= times[0][0]:
                continue
            timed_out = n > 1 or not probes or "S" in story.sent[key][number - 1][2][0]
            if timed_out and us - times[0][0] < SILENT:
                return number
            if since is not None:
                break
    return None


def as_long_as_stock(scenario, stock, other):
    """No timeout is shorter than stock's are"""
    found = []
    for key in sorted(other.sent):
        probes = scenario["sysctl"][key[1]].get("ipv4/tcp_early_retrans") != 0
        quick, number = quick_repeats(other, key, 0), soon_again(other, key, probes)
        if quick and not quick_repeats(stock, key, 0):
            found.append(Difference(f"{key[1]} waits {quick[0]:.0f} us between retransmissions", *key, quick[1]))
        if number and not soon_again(stock, key, probes):
            found.append(Difference(f"{key[1]} times out less than 200 ms after the segment was sent", *key, number))
    return found


def left_as_stock(stock, other, explained):
    """The mode "leave": once the module has left, timeouts are stock's"""
    found = ends_as_stock(stock, other, explained, most=1.05, slack=3_000_000)
    since = other.left_at if other.left_at is not None else 10**15
    for key in sorted(other.sent):
        quick = quick_repeats(other, key, since)
        if quick and not quick_repeats(stock, key, 0):
            found.append(Difference(f"{key[1]} waits {quick[0]:.0f} us between retransmissions after rmmod", *key, quick[1]))
        number = soon_again(other, key, since=since)
        if number and not soon_again(stock, key):
            found.append(Difference(f"{key[1]} times out less than 200 ms after the segment was sent, after rmmod",
                                    *key, number))
    for key in sorted(other.app):
        for us, what, *more in other.app[key]:
            if what == "info" and us > since and more[0]["state"] == 1 and more[0]["rto"] < FLOOR:
                found.append(Difference(f"the timeout of {key[1]} is {more[0]['rto']} us after rmmod", *key, None))
                break
    return found
