# SPDX-License-Identifier: GPL-2.0
"""The wire between two hosts: what becomes of each packet is decided by rules.

A rule names a packet by what it is (the second SYN, the first transmission of byte 4000), or by
when it is sent. So it means the same whatever the timers do.
"""

import socket
import struct

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE = 1, 2, 4, 8, 16, 32, 64, 128, 256
LETTERS = ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (ACK, "."), (URG, "U"), (ECE, "E"), (CWR, "W"), (AE, "A"))
MODULUS = 1 << 32
TCP, ICMP, ICMP6 = socket.IPPROTO_TCP, socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6
MPTCP_OPTION, FASTOPEN_OPTION, ACCECN_OPTIONS = 30, 34, (172, 174)
OPTION_NAMES = {2: "mss", 3: "ws", 4: "sackok", 8: "ts", FASTOPEN_OPTION: "tfo", 172: "acc0", 174: "acc1"}
MPTCP_NAMES = ("capable", "join", "dss", "add", "remove", "prio", "fail", "fastclose", "rst")
PEER = {"a": "b", "b": "a"}


def other(host):
    return PEER[host]


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Packet:
    """A TCP segment as it was sent"""

    def __init__(self, raw):
        self.raw = raw
        if raw[0] >> 4 == 4:
            self.start = (raw[0] & 15) * 4
            end = int.from_bytes(raw[2:4])
            self.ecn = raw[1] & 3
            self.addresses = raw[12:16], raw[16:20]
        else:
            self.start = 40
            end = 40 + int.from_bytes(raw[4:6])
            self.ecn = raw[1] >> 4 & 3
            self.addresses = raw[8:24], raw[24:40]
        self.port, self.to, self.seq, self.ack, flags, self.window = struct.unpack_from("!HHIIHH", raw, self.start)
        offset = self.start + (flags >> 12) * 4
        self.flags = flags & 0x1ff
        self.length = end - offset
        self.options = self.start + 20, offset

    @property
    def ends(self):
        """What tells connections apart"""
        return self.addresses[0] + struct.pack("!H", self.port), self.addresses[1] + struct.pack("!H", self.to)

    def each_option(self):
        at, end = self.options
        while at < end:
            kind = self.raw[at]
            if kind == 0:
                return
            if kind == 1:
                at += 1
                continue
            size = self.raw[at + 1]
            yield kind, self.raw[at + 2:at + size]
            at += size

    def text_of_options(self, their_first):
        """Without what is random in them"""
        found = []
        for kind, data in self.each_option():
            if kind == 5:
                edges = struct.unpack(f"!{len(data) // 4}I", data)
                edges = [(edge - their_first) % MODULUS for edge in edges]
                found.append("sack " + ",".join(f"{x}-{y}" for x, y in zip(edges[::2], edges[1::2])))
            elif kind == MPTCP_OPTION:
                found.append(f"mptcp-{MPTCP_NAMES[min(data[0] >> 4, 8)]}/{len(data)}")
            elif kind in (2, 3) or kind in ACCECN_OPTIONS:
                found.append(f"{OPTION_NAMES[kind]} {data.hex()}")
            elif kind == FASTOPEN_OPTION:
                found.append(f"tfo/{len(data)}")
            else:
                found.append(OPTION_NAMES.get(kind, str(kind)))
        return " ".join(found)


def tcp_checksum(raw, start):
    """Set it, afresh"""
    addresses = bytes(raw[12:20] if raw[0] >> 4 == 4 else raw[8:40])
    raw[start + 16:start + 18] = b"\0\0"
    pseudo = addresses + struct.pack("!II", len(raw) - start, TCP)
    raw[start + 16:start + 18] = struct.pack("!H", checksum(pseudo + bytes(raw[start:])))


def with_window(packet, window, ack=None):
    """The packet with another window, and with another acknowledgement if there is one"""
    raw = bytearray(packet.raw)
    raw[packet.start + 14:packet.start + 16] = struct.pack("!H", window)
    if ack is not None:
        raw[packet.start + 8:packet.start + 12] = struct.pack("!I", ack)
    tcp_checksum(raw, packet.start)
    return bytes(raw)


def with_ce(packet):
    """The packet, marked by a congested router; or as it was if its sender cannot tell"""
    if not packet.ecn:
        return packet.raw
    raw = bytearray(packet.raw)
    if raw[0] >> 4 == 4:
        raw[1] |= 3
        raw[10:12] = b"\0\0"
        raw[10:12] = struct.pack("!H", checksum(bytes(raw[:packet.start])))
    else:
        raw[1] |= 3 << 4
    return bytes(raw)


def bare(packet, seq, ack, flags):
    """A segment without data, with the addresses of the packet"""
    raw = bytearray(packet.raw[:packet.start + 20])
    struct.pack_into("!IIHHHH", raw, packet.start + 4, seq, ack, 5 << 12 | flags, 0, 0, 0)
    if raw[0] >> 4 == 4:
        struct.pack_into("!H", raw, 2, packet.start + 20)
        raw[10:12] = b"\0\0"
        raw[10:12] = struct.pack("!H", checksum(bytes(raw[:packet.start])))
    else:
        struct.pack_into("!H", raw, 4, 20)
    tcp_checksum(raw, packet.start)
    return bytes(raw)


def turned_round(packet):
    """The packet with the addresses of its receiver and sender exchanged"""
    raw = bytearray(packet.raw)
    first, size = (12, 4) if raw[0] >> 4 == 4 else (8, 16)
    for at, length in (first, size), (packet.start, 2):
        raw[at:at + 2 * length] = raw[at + length:at + 2 * length] + raw[at:at + length]
    return bytes(raw)


def icmp(quoted, kind):
    """The error message about a packet: "unreachable" or "mtu N" """
    if quoted[0] >> 4 == 4:
        body = quoted[:(quoted[0] & 15) * 4 + 8]
        head = struct.pack("!BBHI", 3, 1, 0, 0) if kind == "unreachable" else \
            struct.pack("!BBHI", 3, 4, 0, int(kind.split()[1]))
        message = head + body
        message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, ICMP, 0) + quoted[16:20] + quoted[12:16]
        return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + message
    body = quoted[:200]
    head = struct.pack("!BBHI", 1, 3, 0, 0) if kind == "unreachable" else \
        struct.pack("!BBHI", 2, 0, 0, int(kind.split()[1]))
    message = head + body
    addresses = quoted[24:40] + quoted[8:24]
    pseudo = addresses + struct.pack("!II", len(message), ICMP6)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), ICMP6, 64) + addresses + message


class Flow:
    """One connection as the wire sees it"""

    def __init__(self, name, client, ports):
        self.name = name
        self.client = client
        self.ports = {client: ports, other(client): ports[::-1]}    # local and remote, by host
        self.first = {}                 # sequence number of the SYN, by host
        self.acked = {"a": 0, "b": 0}   # what was acknowledged to that host
        self.got = {"a": 0, "b": 0}     # the end of what has come to that host
        self.sent = {}                  # the packet, by host and relative sequence number
        self.count = {}                 # how often something was sent, by what it is
        self.number = {"a": 0, "b": 0}  # segments sent by that host

    def relative(self, host, number):
        return (number - self.first[host]) % MODULUS if host in self.first else number


class Wire:
    """What becomes of a packet. Rules are those of scenario.py; times are in ns from the start"""

    def __init__(self, rules, delays, ports):
        self.rules = rules
        self.delays = delays            # ns, by the sending host
        self.ports = ports              # name of a connection, by the client's port
        self.flows = {}
        self.subflows = 0

    def flow(self, host, packet):
        key = frozenset(packet.ends)
        flow = self.flows.get(key)
        first = packet.flags & SYN and not packet.flags & ACK
        if flow is None or (first and flow.client == host and flow.first[host] != packet.seq):
            if packet.port in self.ports and first:
                name = self.ports[packet.port]
            else:
                self.subflows += 1
                name = f"m{self.subflows}"
            flow = self.flows[key] = Flow(name, host, (packet.port, packet.to))
        if packet.flags & SYN:
            flow.first[host] = packet.seq
        return flow

    def matches(self, rule, flow, host, packet, seq, ack):
        """Is it one of the packets that a rule names? Counts how often that was sent"""
        what, *where = rule["match"]
        syn, fin = packet.flags & SYN, packet.flags & FIN
        if what == "syn":
            hit = syn and not packet.flags & ACK
        elif what == "synack":
            hit = syn and packet.flags & ACK
        elif what == "fin":
            hit = fin
        elif what == "byte":
            hit = packet.length and seq <= where[0] + 1 < seq + packet.length
        elif what == "ackof":           # acknowledges that byte
            hit = not syn and not packet.length and ack > where[0] + 1
        else:                           # the handshake's last ACK
            hit = not syn and not packet.length and not fin and seq == 1 and ack == 1
        if not hit:
            return False
        key = host, what, *where[:1], id(rule)
        flow.count[key] = flow.count.get(key, 0) + 1
        first, last = rule["times"]
        return first <= flow.count[key] <= last

    def decide(self, host, packet, now):
        """(flow, descriptor, fate, [(ns from now, bytes)])"""
        flow = self.flow(host, packet)
        seq = flow.relative(host, packet.seq)
        ack = flow.relative(other(host), packet.ack) if packet.flags & ACK else 0
        flow.sent[host, seq] = packet.raw
        flow.number[host] += 1
        raw, delay, lost, twice, fates = packet.raw, self.delays[host], False, False, []
        for rule in self.rules:
            if rule["from"] not in (host, "both") or rule.get("connection") not in (None, flow.name):
                continue
            what = rule["what"]
            if "match" in rule:
                hit = self.matches(rule, flow, host, packet, seq, ack)
            else:
                hit = rule["begin"] * 1000 <= now < rule["end"] * 1000
            if not hit:
                continue
            if what == "lose":
                lost = True
            elif what == "late":
                delay += rule["us"] * 1000
                fates.append(f"+{rule['us']} us")
            elif what == "twice":
                twice = True
                fates.append("twice")
            elif what == "mark":
                if packet.ecn:
                    fates.append("CE")
                raw = with_ce(packet)
            elif what == "window" and not packet.flags & (SYN | RST):
                back = None
                if rule.get("hold") and packet.flags & ACK and ack > flow.acked[other(host)]:
                    # What was in flight stays there.
                    back = (packet.ack - ack + flow.acked[other(host)]) % MODULUS
                    fates.append(f"ack {flow.acked[other(host)]}")
                raw = with_window(packet, min(packet.window, rule["size"]), back)
                fates.append(f"window {rule['size']}")
        if lost:
            fates = ["lost"]
        flags = "".join(letter for bit, letter in LETTERS if packet.flags & bit)
        shape = [flags, seq, ack, packet.length, packet.window, packet.ecn,
                 packet.text_of_options(flow.first.get(other(host), 0))]
        arrivals = [] if lost else [(delay, raw)] + ([(delay + 10_000, raw)] if twice else [])
        return flow, shape, " ".join(fates), arrivals

    def arrived(self, flow, host, packet):
        """The packet, as it was decided, reaches the other host"""
        end = flow.relative(host, packet.seq) + packet.length + bool(packet.flags & SYN) + bool(packet.flags & FIN)
        flow.got[other(host)] = max(flow.got[other(host)], end)
        if packet.flags & ACK and not packet.flags & RST:
            flow.acked[other(host)] = max(flow.acked[other(host)], flow.relative(other(host), packet.ack))

    def error(self, name, host, kind):
        """An ICMP message about the oldest segment of that host's; none if it has none"""
        for flow in self.flows.values():
            if flow.name == name:
                oldest = flow.sent.get((host, flow.acked[host]))
                oldest = oldest or (list(flow.sent[key] for key in flow.sent if key[0] == host) or [None])[-1]
                return icmp(oldest, kind) if oldest else None
        return None

    def reset(self, name, host):
        """A segment that resets the connection at that host"""
        for flow in self.flows.values():
            if flow.name == name and other(host) in flow.first:
                sent = [key for key in flow.sent if key[0] == other(host)]
                if sent:
                    want = (flow.first[other(host)] + max(flow.got[host], 1)) % MODULUS
                    return bare(Packet(flow.sent[sent[-1]]), want, 0, RST)
        return None

    def stranger(self, name, host):
        """To a host that connects, the ACK of a peer that has another connection with these ports"""
        for flow in self.flows.values():
            if flow.name == name and host in flow.first:
                packet = Packet(flow.sent[next(key for key in flow.sent if key[0] == host)])
                # Out of the window, if that is known: numbers are random.
                seq = (flow.first.get(other(host), 0) + (1 << 30)) % MODULUS
                return bare(Packet(turned_round(packet)), seq, (flow.first[host] + 50_000) % MODULUS, ACK)
        return None
