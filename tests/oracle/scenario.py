# SPDX-License-Identifier: GPL-2.0
"""What happens in a scenario follows from its seed alone: the path, the settings, what the
programs do when, and what the wire does to which packet. Every mode plays the same.

Times are in us from the start of the scenario. Connections go from host a to host b.
"""

import random
import socket

# The settings of the mode "fast", on both hosts
FAST = {"ipv4/tcp_rto_min": 200, "ipv4/tcp_rto_init": 5000, "ipv4/tcp_linear_timeouts": 3,
        "ipv4/tcp_backoff_max": 1000, "ipv4/tcp_delack_min": 1000}
# What they are by default, for the mode "leave"
RESTORED = {"ipv4/tcp_rto_min": 200_000, "ipv4/tcp_rto_init": 1_000_000, "ipv4/tcp_linear_timeouts": 0,
            "ipv4/tcp_backoff_max": 120_000_000, "ipv4/tcp_delack_min": 40_000}


def named(settings, scenario, mode):
    """The same settings, in every second scenario of the mode "leave" by the name that stock has, too,
    unless the scenario has a value for that"""
    name = "ipv4/tcp_rto_min_us"
    if mode != "leave" or scenario["seed"] % 2 or any(name in scenario["sysctl"][host] for host in "ab"):
        return settings
    return {name if key == "ipv4/tcp_rto_min" else key: value for key, value in settings.items()}


# Nothing is remembered of a peer, and buffers do not follow the clock, unless a scenario wants that.
ALWAYS = {"ipv4/tcp_no_metrics_save": 1, "ipv4/tcp_moderate_rcvbuf": 0}

# bbr, cdg and lp are left out: the first two act by chance, and lp by the clock's second.
CONGESTION = ("reno", "cubic", "bic", "dctcp", "westwood", "highspeed", "hybla", "htcp", "vegas", "nv", "veno",
              "scalable", "yeah", "illinois")
RTTS = (50, 200, 700, 1000, 5000, 20_000, 60_000, 200_000)
MS, S = 1000, 1_000_000         # us
TCP, SOCKET = socket.IPPROTO_TCP, socket.SOL_SOCKET
(TCP_SYNCNT, TCP_DEFER_ACCEPT, TCP_QUICKACK, TCP_USER_TIMEOUT, TCP_FASTOPEN, TCP_NODELAY, TCP_THIN_LINEAR,
 TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT) = 7, 9, 12, 18, 23, 1, 16, 4, 5, 6
TCP_LINGER2, SO_MAX_PACING_RATE, SO_KEEPALIVE, SO_RCVBUF, SO_LINGER = 8, 47, 9, 8, 13
FIRST_PORT, SERVER_PORT = 20_000, 5000

OPTION_NAMES = {(TCP, TCP_SYNCNT): "TCP_SYNCNT", (TCP, TCP_DEFER_ACCEPT): "TCP_DEFER_ACCEPT",
                (TCP, TCP_QUICKACK): "TCP_QUICKACK", (TCP, TCP_USER_TIMEOUT): "TCP_USER_TIMEOUT",
                (TCP, TCP_FASTOPEN): "TCP_FASTOPEN", (TCP, TCP_NODELAY): "TCP_NODELAY",
                (TCP, TCP_THIN_LINEAR): "TCP_THIN_LINEAR_TIMEOUTS", (TCP, TCP_KEEPIDLE): "TCP_KEEPIDLE",
                (TCP, TCP_KEEPINTVL): "TCP_KEEPINTVL", (TCP, TCP_KEEPCNT): "TCP_KEEPCNT",
                (TCP, TCP_LINGER2): "TCP_LINGER2", (SOCKET, SO_MAX_PACING_RATE): "SO_MAX_PACING_RATE",
                (SOCKET, SO_KEEPALIVE): "SO_KEEPALIVE", (SOCKET, SO_RCVBUF): "SO_RCVBUF"}


class Maker:
    """A scenario while it is made"""

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.rtt = self.r.choice(RTTS)
        self.sysctls = {"a": {}, "b": {}}
        self.commands = {"a": [], "b": []}
        self.connections, self.rules, self.injected = [], [], []
        self.limit_s = 1300
        self.family = 6 if self.chance(25) else 4
        self.more = {}

    def chance(self, percent):
        return self.r.random() * 100 < percent

    def pick(self, *values):
        return self.r.choice(values)

    def between(self, least, most):
        """Small values as often as large ones"""
        return int(least * (most / least) ** self.r.random())

    def sysctl(self, host="both", **values):
        for h in "ab" if host == "both" else host:
            self.sysctls[h].update({f"ipv4/{name}": value for name, value in values.items()})

    def odd(self, us):
        """About then: the phase to the tick is any"""
        return us + self.r.randrange(1, 1000)

    def connect(self, at=0, kind="tcp", server_port=SERVER_PORT, **more):
        n = len(self.connections)
        c = {"name": f"c{n + 1}", "kind": kind, "family": self.family, "port": FIRST_PORT + n,
             "server_port": server_port, "client_options": [[TCP, TCP_NODELAY, 1]], "server_options": [],
             "client": [[at, "connect"]], "server": [], **more}
        self.connections.append(c)
        return c

    def rule(self, what, host, match=None, times=1, **more):
        rule = {"what": what, "from": host, **more}
        if match:
            rule["match"] = list(match)
            rule["times"] = [1, times] if isinstance(times, int) else list(times)
        self.rules.append(rule)

    def only_first_syn(self, c):
        """A SYN that is sent again and the SYN-ACK that is may meet: their timers started together, and
        which is first depends on the wheel. So one of them does not get through, and the other later"""
        self.rule("lose", "a", ("syn",), (2, 10**6), connection=c["name"])
        self.rule("late", "b", ("synack",), (2, 10**6), connection=c["name"], us=330_000)

    def outage(self, begin, end=10**12, host="both"):
        self.rule("lose", host, begin=begin, end=end)

    def inject(self, what, to, at, connection, kind="unreachable"):
        self.injected.append({"what": what, "to": to, "at": at, "connection": connection["name"], "kind": kind})

    def exchange(self, c, at, times, gap=None):
        """Requests with answers, so that both know the round trip; returns when that is over"""
        for _ in range(times):
            at += gap or self.rtt * 3 + self.r.randrange(100, 20_000)
            c["client"].append([at, "write", self.between(1, 1400)])
            c["server"].append([at + self.rtt + self.r.randrange(50, 2000), "write", self.between(1, 3000)])
        return at + self.rtt * 3 + 3 * MS

    def finish(self, c, at):
        """The end of a connection, in one of several ways; both have closed then"""
        client, server = c["client"], c["server"]
        late = at + self.rtt * 4 + self.odd(self.pick(0, 50, 300) * MS)
        for script in client, server:
            script.append([at - 1, "info"])
        how = self.r.randrange(6)
        if how == 0:
            client.append([at, "close"])
            server.append([late, "close"])
        elif how == 1:
            server.append([at, "close"])
            client.append([late, "close"])
        elif how == 2:
            client += [[at, "shut"], [late + S, "close"]]
            server += [[late, "shut"], [late + S, "close"]]
        elif how == 3:
            client.append([at, "abort"])
            server.append([late, "close"])
        elif how == 4:
            client.append([at, "close"])
            server.append([at, "close"])
        else:
            server += [[at, "shut"], [late + S, "close"]]
            client += [[late, "write", 700], [late, "shut"], [late + S, "close"]]

    def spice(self):
        """Settings of any connection"""
        if self.chance(40):
            self.sysctl(tcp_congestion_control=self.pick(*CONGESTION))
        for percent, name, values in ((15, "tcp_sack", (0,)), (20, "tcp_timestamps", (0, 2)), (25, "tcp_early_retrans", (0,)),
                                      (10, "tcp_dsack", (0,)), (10, "tcp_frto", (0,)), (15, "tcp_slow_start_after_idle", (0,)),
                                      (8, "tcp_thin_linear_timeouts", (1,)), (10, "tcp_recovery", (0, 2, 4)),
                                      (8, "tcp_rto_max_ms", (1000, 5000, 30_000)), (8, "tcp_window_scaling", (0,)),
                                      (10, "tcp_ecn", (0, 1, 3)), (6, "tcp_mtu_probing", (1, 2)),
                                      (6, "tcp_rto_min_us", (200_000, 300_000, 1_000_000))):
            if self.chance(percent):
                host = self.pick("a", "b", "both", "both")
                self.sysctl(host, **{name: self.pick(*values)})

    def scenario(self, seed, theme):
        half = self.rtt // 2
        return {"seed": seed, "theme": theme, "delay_us": {"a": half, "b": self.rtt - half}, "sysctl": self.sysctls,
                "commands": self.commands, "connections": self.connections, "rules": self.rules,
                "inject": self.injected, "limit_s": self.limit_s,
                "leave": {"at": self.odd(self.between(MS, 3 * S)), "restore": self.chance(60)}, **self.more}


# The themes: each makes the core of a scenario, and returns nothing

def bulk(m):
    """Some data one way, of which some is lost, late or doubled"""
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, m.pick(1, 3, 8))
    total = 0
    for _ in range(m.r.randrange(1, 5)):
        size = m.between(200, 60_000)
        c["client"].append([at, "write", size])
        total += size
        at += m.between(MS, S)
    if m.chance(20):
        # What is sent waits in the host for longer than on the path, and than a loss probe does.
        m.sysctl("a", tcp_early_retrans=0)
        m.more["surprised"] = "b"       # of whose data the ACKs wait there
        m.commands["a"].append(f"tc qdisc replace dev wire0 root netem limit 1000 rate {m.pick('1mbit', '4mbit')}")
        m.finish(c, at + 3 * S)
        return
    for _ in range(m.r.randrange(0, 4)):
        m.rule(m.pick("lose", "lose", "lose", "late", "twice"), "a", ("byte", m.r.randrange(total)),
               m.pick(1, 1, 2, 3), us=m.pick(80, 150, 500, 3000, 43_000))
    if m.chance(25):
        m.rule("lose", "b", ("ackof", m.r.randrange(total)), m.pick(1, 2))
    m.finish(c, at + 3 * S)


def requests(m):
    """Requests with answers; the tail of one is lost"""
    c = m.connect()
    at = m.rtt * 3
    asked = answered = 0
    for _ in range(m.r.randrange(3, 10)):
        asked += (request := m.between(50, 5000))
        answered += (answer := m.between(50, 25_000))
        c["client"].append([at, "write", request])
        c["server"].append([at + m.rtt * 2 + m.between(10, 100_000), "write", answer])
        if m.chance(35):
            m.rule("lose", "a", ("byte", asked - 1), m.pick(1, 1, 2, 4))
        if m.chance(35):
            m.rule("lose", "b", ("byte", answered - 1), m.pick(1, 1, 2, 4))
        at += m.rtt * 4 + m.between(5 * MS, 3 * S)
    m.finish(c, at + 5 * S)


def reordering(m):
    """Segments of short flights come later than those after them"""
    m.rtt = m.pick(100, 200, 500, 1000, 5000)
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, m.pick(5, 10))
    sent = sum(action[2] for action in c["client"] if action[1] == "write")
    for _ in range(m.r.randrange(1, 6)):
        segments = m.r.randrange(3, 9)
        c["client"].append([at, "write", 1400 * segments])
        m.rule("late", "a", ("byte", sent + 1400 * m.r.randrange(segments - 2)), 1, us=m.pick(80, 150, 500, 1500))
        sent += 1400 * segments
        at += m.odd(100 * MS)
    m.finish(c, at + S)


def silence(m):
    """From a moment on nothing gets through, until a connection is given up"""
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, m.pick(1, 5, 10)) + m.odd(0)
    if m.chance(40):
        c["client_options"].append([TCP, TCP_USER_TIMEOUT, m.pick(300, 1000, 5000, 20_000)])
    elif m.chance(60):
        m.sysctl(tcp_retries2=m.pick(2, 4, 6, 8))
    m.outage(at - 1)
    c["client"].append([at, "write", m.pick(100, 1000, 10_000)])
    if m.chance(30):
        c["server"].append([at, "write", 5000])
    orphan = m.chance(40)
    if orphan:
        if m.chance(50):
            m.sysctl(tcp_orphan_retries=m.pick(1, 3, 6))
        c["client"].append([at + m.pick(1, 50 * MS, 2 * S), "close"])
    if m.chance(70 if orphan else 40):
        for _ in range(m.pick(1, 1, 3)):
            m.inject("icmp", "a", at + m.odd(m.between(100 * MS, 20 * S)), c)
    c["client"] += [[at + 10 * S, "info"], [at + 1250 * S, "abort"]]
    c["server"] += [[at + 1250 * S, "abort"]]


def pauses(m):
    """Nothing gets through for a while"""
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, m.pick(2, 6))
    for _ in range(m.r.randrange(1, 4)):
        length = m.between(2 * MS, 10 * S)
        m.outage(at - 1, at + length, m.pick("a", "b", "both", "both"))
        c["client"].append([at, "write", m.between(1, 20_000)])
        if m.chance(40):
            c["server"].append([at + m.odd(MS), "write", m.between(1, 20_000)])
        if m.chance(30):
            m.inject("icmp", "a", at + m.odd(int(length * m.r.random())), c)
        at += length * 3 + S
        at = m.odd(at)
    m.finish(c, at + 5 * S)


def handshake(m):
    """Segments of the handshake are lost, once or for good"""
    if m.chance(20):
        # Or none is: the path is long, and there is much to say.
        m.rtt = m.pick(20_000, 60_000)
        c = m.connect()
        c["client"].append([m.rtt * 3, "write", 30_000])
        m.finish(c, 10 * S)
        return
    bpf = m.chance(20)
    for n in range(m.pick(1, 2)):
        at = m.odd(n * 300 * S)
        c = m.connect(at)
        if m.chance(15):
            c["client_options"].append([TCP, TCP_SYNCNT, m.pick(1, 3, 7)])
        last = at + m.rtt * 3 + m.pick(0, 150 * MS, S)
        lost = m.pick(0, 2, 5) if bpf else m.r.randrange(8)
        times = m.pick(1, 1, 2, 3)
        if lost < 2:
            m.rule("lose", "a", ("syn",), times, connection=c["name"])
        elif lost < 4:
            m.rule("lose", "b", ("synack",), times, connection=c["name"])
            m.only_first_syn(c)
        elif lost == 4:
            m.rule("lose", "a", ("handshake",), times, connection=c["name"])
        elif lost == 5:
            m.rule("lose", m.pick("a", "both"), begin=at, end=at + 200 * S)
        elif lost == 6:
            m.rule("late", "b", begin=at, end=at + S, us=m.pick(17_000, 300_000, 1_300_000))
            m.only_first_syn(c)
        if m.chance(25):
            m.inject("icmp", "a", m.odd(at + m.between(100 * MS, 5 * S)), c)
        c["client"].append([m.odd(last), "write", m.between(1, 30_000)])
        c["server"].append([m.odd(last), "write", m.between(1, 10_000)])
        m.finish(c, at + 250 * S)
    if m.chance(30):
        m.sysctl(tcp_syn_retries=m.pick(1, 3, 5), tcp_synack_retries=m.pick(1, 3, 5))
    if m.chance(40):
        m.sysctl(tcp_syn_linear_timeouts=m.pick(0, 1, 6))
    if bpf:
        m.more["bpf_timeout_init"] = m.pick(300, 1000, 2000)
    if m.chance(30):
        m.sysctl(m.pick("a", "both"), tcp_timestamps=0)
    if m.chance(30):
        m.inject("stranger", "a", m.odd(m.between(MS, S)), m.connections[0], "")


def held_back(m):
    """The first ACK, or the first data, comes late; or never"""
    m.rtt = m.pick(50, 700, 20_000)
    c = m.connect()
    if m.chance(60):
        c["client_options"].append([TCP, TCP_QUICKACK, 0])
    if m.chance(50):
        c["server_options"].append([TCP, TCP_DEFER_ACCEPT, m.pick(1, 5, 30)])
    at = m.pick(20 * MS, 150 * MS, 3 * S, 40 * S)
    if m.chance(80):
        c["client"].append([m.odd(at), "write", m.between(1, 5000)])
        c["server"].append([m.odd(at + m.rtt * 3), "write", m.between(1, 5000)])
    if m.chance(30):
        m.rule("lose", "a", ("handshake",), m.pick(1, 2))
    if m.chance(50):
        # It has sent no data yet.
        c["server"].append([m.odd(m.rtt * 2), "info"])
    m.finish(c, at + 120 * S)


def many_retries(m):
    """A request stays in a listener's queue for hours, as it is told to"""
    m.rtt = m.pick(50, 20_000)
    c = m.connect()
    retries = m.pick(20, 60, 120, 127)
    if m.chance(50):
        c["server_options"].append([TCP, TCP_SYNCNT, retries])
        m.rule("lose", "b", ("synack",), 1000)
        m.only_first_syn(c)
    else:
        c["client_options"].append([TCP, TCP_SYNCNT, retries])
        m.rule("lose", "a", ("syn",), 1000)
    c["client"].append([20_000 * S, "abort"])
    if m.chance(30):
        c["client"].append([m.odd(3500 * MS), "abort"])
    m.limit_s = 16_200


def ends(m):
    """Who says that it is over, when, and what of it is lost"""
    for n in range(m.pick(1, 3)):
        at = n * 200 * S
        c = m.connect(at)
        start = m.odd(at + m.rtt * 2)
        if m.chance(40):
            c["server"].append([at, "shut"])        # at once: its FIN is its first segment
        elif m.chance(50):
            c["client"].append([at, "shut"])
        else:
            start = m.exchange(c, start, m.pick(1, 3))
            m.pick(c["client"], c["server"]).append([start, m.pick("shut", "shut", "close")])
        if m.chance(30):
            c[m.pick("client", "server")].append([m.odd(start + MS), "write", m.between(1, 9000)])
        if m.chance(50):
            m.rule("lose", m.pick("a", "b"), ("fin",), m.pick(1, 1, 2, 4), connection=c["name"])
        if m.chance(20):
            m.rule("lose", "both", begin=start + 50 * MS, end=at + 150 * S)
        if m.chance(30):
            c["client_options"].append([TCP, TCP_LINGER2, m.pick(1, 5)])
        later = m.odd(start + m.pick(MS, 100 * MS, 5 * S))
        m.finish(c, later)


def windows(m):
    """The receiver's window closes, and opens again or not"""
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, m.pick(2, 10))
    user_timeout = m.chance(45)
    if user_timeout:
        c["client_options"].append([TCP, TCP_USER_TIMEOUT, m.pick(50, 1000, 5000)])
    length = m.odd(m.between(50 * MS, 20 * S))
    if m.chance(50):
        # Taken back while data is in flight
        size = m.pick(0, 0, 0, 1, 500)
        c["client"].append([at, "write", m.between(500, 40_000)])
        hold = m.chance(60)
        if hold:
            m.sysctl(tcp_sack=0)
        m.rule("window", "b", begin=at, end=at + length, size=size, hold=hold)
    else:
        c["server_options"].append([SOCKET, SO_RCVBUF, m.pick(2304, 4096, 8192)])
        c["server"].append([at, "pause"])
        c["client"].append([at + 5, "write", 60_000])
        c["server"].append([at + length, "resume"])
    if m.chance(25):
        m.outage(at + length // 2, at + length // 2 + m.between(MS, 3 * S), m.pick("a", "b", "both"))
    end = at + length * 2 + 10 * S
    if m.chance(20):
        c["client"].append([at + length // 3, "close"])
    m.finish(c, end)


def keepalive(m):
    """A connection that says nothing, and is asked whether it is there"""
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, m.pick(1, 4))
    host = m.pick("client", "server")
    c[f"{host}_options"] += [[SOCKET, SO_KEEPALIVE, 1], [TCP, TCP_KEEPIDLE, m.pick(1, 10)],
                             [TCP, TCP_KEEPINTVL, m.pick(1, 7)], [TCP, TCP_KEEPCNT, m.pick(1, 3, 9)]]
    if m.chance(40):
        c[f"{host}_options"].append([TCP, TCP_USER_TIMEOUT, m.pick(1500, 8000)])
    if m.chance(70):
        m.outage(m.odd(at + m.between(MS, 30 * S)), m.pick(at + 20 * S, 10**12))
    if m.chance(30):
        c["client"].append([m.odd(at + m.between(S, 60 * S)), "write", 500])
    m.finish(c, at + 150 * S)


def multipath(m):
    """MPTCP, with an address that is signalled and a second subflow"""
    m.family = 4
    if m.chance(25):
        an_idle_subflow(m)
        return
    m.rtt = m.pick(50, 200, 700, 17_000, 60_000)
    if m.chance(60):
        signal_an_address(m)
    for n in range(m.pick(1, 2)):
        at = n * 20 * S
        c = m.connect(at, "mptcp")
        start = m.odd(at + m.rtt * 3)
        if m.chance(40):
            # What b says once it knows that the connection stands, and so the first ADD_ADDR, is lost.
            m.outage(at + m.rtt + m.rtt // 2 - 1, at + m.rtt * 2 + m.pick(10, 17, 50, 150) * MS, m.pick("b", "both"))
            start += 30 * MS
        if m.chance(20):
            m.rule("lose", "a", ("syn",), m.pick(1, 2, 3), connection=c["name"])
        start = m.exchange(c, start, 3)
        sent = sum(action[2] for action in c["client"] if action[1] == "write")
        c["client"].append([start, "write", m.between(1000, 50_000)])
        if m.chance(40):
            m.rule("lose", "a", ("byte", sent), m.pick(1, 2, 3), connection=c["name"])
        m.finish(c, at + 12 * S)


def signal_an_address(m):
    """The server's, to which the client makes a second subflow"""
    m.commands["b"] += ["ip addr add 10.0.1.2/24 dev wire0", "ip mptcp limits set subflow 2 add_addr_accepted 2",
                        "ip mptcp endpoint add 10.0.1.2 dev wire0 signal"]
    m.commands["a"] += ["ip addr add 10.0.1.1/24 dev wire0", "ip mptcp limits set subflow 2 add_addr_accepted 2"]


def an_idle_subflow(m):
    """The second of two requests takes many ticks, while the other subflow is idle"""
    m.rtt = m.pick(50, 200, 700)
    m.sysctl(tcp_early_retrans=0)
    signal_an_address(m)
    c = m.connect(0, "mptcp")
    at = m.exchange(c, m.rtt * 3, 8)
    m.rule("late", "a", begin=at + 5, end=at + 100 * MS, us=m.pick(30_000, 90_000))
    c["client"] += [[at, "write", m.between(100, 1000)], [at + 10, "write", m.between(100, 1000)]]
    m.finish(c, at + 12 * S)


def fast_open(m):
    """Data in the SYN, once there is a cookie; and what may befall it"""
    m.sysctl(tcp_fastopen=3, tcp_fastopen_blackhole_timeout_sec=m.pick(0, 3600))
    # The cookie is kept with what is remembered of the peer.
    at = 0
    for n in range(m.pick(3, 4)):
        c = m.connect(at, "tfo", first=m.between(1, 1200), server_options=[[TCP, TCP_FASTOPEN, 16]])
        c["client"][0][0] = at
        if n and m.chance(50):
            what = m.r.randrange(4)
            if what == 0:
                m.rule("lose", "a", ("syn",), m.pick(1, 2), connection=c["name"])
            elif what == 1:
                m.rule("lose", "b", ("synack",), m.pick(1, 2), connection=c["name"])
                m.only_first_syn(c)
            elif what == 2:
                m.outage(m.odd(at + 50 * MS), m.odd(at + 50 * MS + m.pick(2, 20, 1500) * MS))
            else:
                c["server"].append([at, "shut"])
        c["server"].append([m.odd(at + m.rtt * 3), "write", m.between(1, 20_000)])
        c["client"].append([m.odd(at + 50 * MS + m.rtt * 4), "write", m.between(1, 5000)])
        m.finish(c, at + 20 * S)
        at += 100 * S


def congestion(m):
    """ECN in its four kinds, with marks"""
    m.rtt = m.pick(200, 5000, 20_000, 60_000)
    if m.chance(40):
        m.sysctl(tcp_ecn=3)
    else:
        for host in "ab":
            m.sysctl(host, tcp_ecn=m.pick(0, 1, 2, 3, 3))
    if m.chance(40):
        m.sysctl(tcp_congestion_control="dctcp")
    if m.chance(30):
        m.sysctl(tcp_timestamps=0)
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, 2)
    total = 0
    for _ in range(m.r.randrange(1, 4)):
        size = m.between(5000, 60_000)
        c["client"].append([at, "write", size])
        total += size
        at += m.odd(500 * MS)
    for _ in range(m.r.randrange(0, 5)):
        m.rule(m.pick("mark", "mark", "lose"), "a", ("byte", m.r.randrange(total)), 1)
    if m.chance(15):
        what = m.pick("syn", "synack")
        m.rule("lose", "a" if what == "syn" else "b", (what,), 1)
        if what == "synack":
            m.only_first_syn(c)
    elif m.chance(20):
        # All SYN-ACKs, until the kernel's own timeout
        m.sysctl(tcp_ecn=3)
        m.outage(0, m.odd(m.pick(300, 700) * MS), "b")
        m.only_first_syn(c)
    m.finish(c, at + 3 * S)


def pacing(m):
    """A rate that the sender is told, down to some bytes a second"""
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, 3)
    c["client"].append([at - 100, "option", SOCKET, SO_MAX_PACING_RATE, m.pick(4, 40, 1000, 100_000, 3_000_000)])
    if m.chance(30):
        c["client_options"].append([TCP, TCP_USER_TIMEOUT, m.pick(3000, 60_000)])
    sent = sum(action[2] for action in c["client"] if action[1] == "write")
    for _ in range(m.pick(1, 3)):
        c["client"].append([at, "write", m.between(100, 20_000)])
        at += m.odd(2 * S)
    if m.chance(70):
        m.rule("lose", "a", ("byte", sent), m.pick(1, 2, 100))
    m.finish(c, at + 900 * S)


def memory(m):
    """Connections one after another, and what is remembered of the peer; and what a route says"""
    m.sysctl(tcp_no_metrics_save=m.pick(0, 0, 1))
    if m.chance(30):
        return longer_with_data(m)
    if m.chance(50):
        words = [m.pick("rto_min 300ms", "rto_min 1s", "rtt 80ms", "rtt 400ms rttvar 100ms", "initcwnd 3",
                        "initcwnd 20", "quickack 1", "cwnd 4", "ssthresh 8")]
        m.family = 4
        m.commands["a"].append("ip route change 10.0.0.0/24 dev wire0 proto kernel scope link src 10.0.0.1 " + words[0])
    at = 0
    for n in range(m.pick(2, 3)):
        c = m.connect(at)
        start = m.exchange(c, at + m.rtt * 3, m.pick(1, 6))
        sent = sum(action[2] for action in c["client"] if action[1] == "write")
        c["client"].append([start, "write", m.between(100, 30_000)])
        if m.chance(60):
            m.rule("lose", "a", ("byte", sent), m.pick(1, 2), connection=c["name"])
        if m.chance(30):
            m.rule("late", "a", begin=at, end=start, us=m.pick(2000, 30_000))
        m.finish(c, start + 5 * S)
        at = m.odd(start + 100 * S)


def longer_with_data(m):
    """Data takes longer than the handshake, each time, which is remembered from the second time on"""
    m.sysctl(tcp_no_metrics_save=0, tcp_early_retrans=0)
    m.rtt = m.pick(50, 200, 1000)
    at = 0
    for _ in range(3):
        c = m.connect(at)
        start = m.exchange(c, at + m.rtt * 3, 15, 200 * MS)
        c["client"].append([start, "write", m.between(100, 30_000)])
        m.rule("late", "a", begin=at + m.rtt * 2, end=10**12, connection=c["name"], us=30_000)
        # Of one that is aborted nothing is remembered.
        c["client"].append([start + 5 * S, "close"])
        c["server"].append([m.odd(start + 6 * S), "close"])
        at = m.odd(start + 100 * S)
    m.more["steady"] = [c["name"] for c in m.connections[1:]]


def delay_spike(m):
    """The round trip takes far longer for a while, and nothing is lost"""
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, m.pick(3, 10))
    for _ in range(m.r.randrange(1, 4)):
        m.rule("late", m.pick("a", "b"), begin=at, end=at + m.pick(1, 10, 300) * MS, us=m.between(1000, 900_000))
        c["client"].append([m.odd(at), "write", m.between(100, 30_000)])
        at += m.odd(3 * S)
        at = m.exchange(c, at, 2)
    m.finish(c, at + 3 * S)


def thin(m):
    """Streams of single segments, of which some are lost many times"""
    m.sysctl(tcp_thin_linear_timeouts=m.pick(0, 1, 1))
    c = m.connect()
    if m.chance(50):
        c["client_options"].append([TCP, TCP_THIN_LINEAR, 1])
    at = m.exchange(c, m.rtt * 3, m.pick(2, 6))
    sent = sum(action[2] for action in c["client"] if action[1] == "write")
    for _ in range(m.r.randrange(1, 4)):
        size = m.between(10, 1000)
        c["client"].append([at, "write", size])
        m.rule("lose", "a", ("byte", sent), m.pick(1, 2, 3, 5, 7))
        sent += size
        at += m.odd(60 * S)
    m.finish(c, at)


def errors(m):
    """Resets and ICMP errors in the middle"""
    c = m.connect()
    at = m.exchange(c, m.rtt * 3, m.pick(1, 4))
    sent = sum(action[2] for action in c["client"] if action[1] == "write")
    c["client"].append([at, "write", m.between(3000, 40_000)])
    what = m.r.randrange(4)
    if what == 0:
        m.inject("reset", m.pick("a", "b"), m.odd(at + m.between(100, S)), c, "")
    elif what == 1:
        m.rule("lose", "a", ("byte", sent), 1)
        when = m.odd(at + m.rtt // 4)
        # Stock takes the time from when it was last looked at. So it looks right before, for the patched
        # kernel looks anyway.
        c["client"].append([when, "write", 1])
        m.inject("icmp", "a", when, c, f"mtu {m.pick(1300, 1400)}")
    elif what == 2:
        m.rule("lose", "a", ("byte", sent), m.pick(2, 4))
        for _ in range(3):
            m.inject("icmp", "a", m.odd(at + m.between(10 * MS, 3 * S)), c)
    else:
        m.rule("lose", "a", ("byte", sent), m.pick(2, 3))
        c["client"].append([m.odd(at + m.between(10 * MS, S)), "abort"])
    m.finish(c, at + 8 * S)


def one_way(m):
    """Segments that nobody answers: the receiver delays its ACKs"""
    c = m.connect()
    at = m.odd(m.rtt * 3)
    total = 0
    for _ in range(m.r.randrange(5, 25)):
        size = m.pick(1, 100, 1000, 1448, 2000, 4000)
        c["client"].append([at, "write", size])
        total += size
        at += m.odd(m.pick(0, 3, 30, 60, 250) * MS)
    if m.chance(30):
        m.rule("lose", "a", ("byte", m.r.randrange(total)), 1)
    m.finish(c, at + S)


THEMES = (bulk, requests, reordering, silence, pauses, handshake, held_back, ends, windows, keepalive, multipath,
          fast_open, congestion, pacing, memory, delay_spike, thin, errors, one_way, silence, handshake, windows,
          multipath, many_retries)


def make(seed):
    theme = THEMES[seed % len(THEMES)]
    m = Maker(seed)
    if not m.chance(25):
        m.spice()
    theme(m)
    return m.scenario(seed, theme.__name__)


# As text

def rule_text(rule):
    what = {"lose": "loses", "late": f"delays by {rule.get('us')} us", "twice": "doubles", "mark": "marks",
            "window": f"takes the window down to {rule.get('size')}" + ", and acknowledges nothing new," * rule.get("hold", 0) +
                      " of"}[rule["what"]]
    sender = {"a": "what a sends", "b": "what b sends", "both": "what both send"}[rule["from"]]
    if "match" not in rule:
        return f"{what} {sender} from {rule['begin']} to {rule['end']} us"
    name, *where = rule["match"]
    thing = {"syn": "its SYN", "synack": "its SYN-ACK", "fin": "its FIN", "byte": f"byte {(where or [0])[0]}",
             "ackof": f"its ACK of byte {(where or [0])[0]}", "handshake": "the handshake's last ACK"}[name]
    first, last = rule["times"]
    return f"{what} {sender}: {thing}, transmissions {first} to {last}" + \
        (f", of {rule['connection']}" if "connection" in rule else "")


def describe(s):
    """The scenario as text"""
    lines = [f"scenario {s['seed']}: {s['theme']}",
             f"  one way takes {s['delay_us']['a']} us from a, {s['delay_us']['b']} us from b"]
    for host in "ab":
        settings = " ".join(f"{name.split('/')[-1]}={value}" for name, value in s["sysctl"][host].items())
        if settings:
            lines.append(f"  {host} has {settings}")
        lines += [f"  {host} runs {command}" for command in s["commands"][host]]
    if "bpf_timeout_init" in s:
        lines.append(f"  BPF_SOCK_OPS_TIMEOUT_INIT replies {s['bpf_timeout_init']} ticks")
    for c in s["connections"]:
        lines.append(f"  {c['name']}: {c['kind']}, IPv{c['family']}, port {c['port']} to {c['server_port']}")
        for who in "client", "server":
            named = [f"{OPTION_NAMES.get((level, name), name)}={value}" for level, name, value in c[f"{who}_options"]]
            if named:
                lines.append(f"    the {who} sets {' '.join(named)}")
            lines += [f"    {at:>12} us: the {who} does {' '.join(map(str, what))}"
                      for at, *what in sorted(c[who], key=lambda action: action[0])]
    lines += [f"  the wire {rule_text(rule)}" for rule in s["rules"]]
    lines += [f"  {i['at']:>12} us: {i['to']} gets {i['what']} {i['kind']} for {i['connection']}" for i in s["inject"]]
    lines.append(f"  it ends after {s['limit_s']} s at the latest; mode leave: at {s['leave']['at']} us" +
                 (", set back before" if s["leave"]["restore"] else ""))
    return "\n".join(lines)
