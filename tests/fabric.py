#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""Is the simulated fabric what it says it is? Each case starts scripts/incast, as a
user would, and compares what it measures with what must come out. Prints KTAP."""

import csv
import inspect
import json
import os
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
# Ethernet, IP and TCP with timestamps, in a frame of 1514 bytes
PAYLOAD = 1448 / 1514
STOCK = "--kernel", "stock"
CASES = []


def case(function):
    CASES.append(function)
    return function


class Results(str):
    """A directory for what scripts/incast writes"""

    def incast(self, *args, fails=False):
        """Run it afresh; returns its rows"""
        self.said = subprocess.run([f"{TOP}/scripts/incast", "--jobs", "1", "--force", "--results", self, *map(str, args)],
                                   cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, check=False)
        if fails != bool(self.said.returncode):
            raise AssertionError(f"exit status {self.said.returncode}: {self.said.stdout}")
        return [] if fails else list(csv.DictReader(self.text().splitlines()))

    def text(self):
        with open(f"{self}/incast.csv", encoding="ascii") as f:
            return f.read()


def one(rows, key):
    (row,) = rows
    return float(row[key])


def near(what, got, want, share):
    if abs(got - want) > share * want:
        raise AssertionError(f"{what}: {got:g}, not {want:g} (+-{100 * share:g} %)")


def expect(what, right):
    if not right:
        raise AssertionError(what)


def files(results):
    return sorted(os.listdir(results))


@case
def seed__same_again(results):
    """The same CSV, byte for byte; another with another seed"""
    shape = *STOCK, "--senders", "16", "--rounds", 10, "--warm-up", 2, "--budget", 1
    results.incast(*shape, "--seed", 5)
    first = results.text()
    results.incast(*shape, "--seed", 5)
    expect("the same seed gives other figures", results.text() == first)
    results.incast(*shape, "--seed", 6)
    expect("another seed gives the same figures", results.text().replace(",6,", ",5,") != first)


@case
def rate__of_the_port(results):
    """With nothing lost, the port is busy all the time"""
    rows = results.incast(*STOCK, "--senders", "8", "--rate", "1g,10g", "--buffer", "none", "--rounds", 20,
                          "--block", "4m")
    for row in rows:
        rate = int(row["rate_mbit"])
        near(f"goodput at {rate} Mbit/s", float(row["goodput_mbit"]), rate * PAYLOAD, 0.02)
        expect("packets were lost in a buffer without end", row["drops"] == "0")


@case
def rate__of_the_servers(results):
    """Two slow links make half of the port's rate"""
    rows = results.incast(*STOCK, "--senders", "2", "--rate", "1g", "--server-rate", "250m", "--buffer", "none",
                          "--rounds", 20)
    near("goodput", one(rows, "goodput_mbit"), 500 * PAYLOAD, 0.03)


@case
def rtt(results):
    """A byte takes the round trip, and what it takes to send two small packets at 1 Gbit/s and to read clocks"""
    rows = results.incast(*STOCK, "--senders", "1", "--rtt", "60,10000", "--share", "1", "--rounds", 20)
    for row in rows:
        more = float(row["median_block_ms"]) * 1000 - int(row["rtt_us"])
        expect(f"a byte takes {more:.1f} us more than the round trip of {row['rtt_us']} us", 1 <= more <= 10)


@case
def rtt__spread(results):
    """The last of many servers is about so much further away"""
    rows = results.incast(*STOCK, "--senders", "64", "--rtt-spread", "5000", "--share", "1", "--rounds", 20)
    near("the time of a block", one(rows, "median_block_ms"), 5.06, 0.06)


@case
def buffer__holds_that_much(results):
    """The queue is never longer, and gets that long: in packets, and in bytes"""
    for size, field, most, packet in (("40", 1, 40, 1), ("30k", 2, 30 << 10, 1514)):
        results.incast(*STOCK, "--senders", "16", "--buffer", size, "--rounds", 4, "--trace", 50)
        with open(f"{results}/incast.json", encoding="ascii") as f:
            longest = max(look[field] for cell in json.load(f)["cells"] for look in cell["trace"])
        expect(f"a buffer of {size} held {longest:g}", most - packet <= longest <= most)


@case
def red__marks(results):
    """dctcp keeps the queue short: marks instead of losses, once windows have settled"""
    rows = results.incast(*STOCK, "--senders", "4", "--rate", "1g", "--buffer", "200", "--cc", "cubic,dctcp",
                          "--red", "10-20", "--rounds", 20)
    for row in rows:
        expect(f"{row['cc']}: {row['marks']} marks, {row['drops']} losses",
               int(row["marks"]) > 100 and int(row["drops"]) < int(row["marks"]) / 10)


@case
def loss(results):
    """Of all packets, both ways, that part is lost"""
    rows = results.incast(*STOCK, "--senders", "4", "--loss", "1", "--buffer", "none", "--rounds", 100, "--warm-up", 0)
    # A packet of each block's 725, and about as many ACKs as every second of them
    expect(f"{one(rows, 'losses'):g} losses", 600 <= one(rows, "losses") <= 1700)
    expect("the port dropped some, too", one(rows, "drops") == 0)


@case
def churn(results):
    """Where SYNs get lost, a connection takes a second"""
    rows = results.incast(*STOCK, "--workload", "churn", "--senders", "32", "--rounds", 60)
    expect(f"{one(rows, 'rounds'):g} answers", one(rows, "rounds") == 32 * 60)
    expect(f"the slowest took {one(rows, 'worst_block_ms')} ms", one(rows, "worst_block_ms") > 1000)


@case
def aggregate__finetcp(results):
    """Queries, side by side: a lost tail costs stock 200 ms, and finetcp next to nothing"""
    rows = results.incast("--workload", "aggregate", "--rounds", 60, "--kernel", "stock",
                          "--kernel", "finetcp:tcp_rto_min=200")
    stock, ours = (float(row["worst_block_ms"]) for row in rows)
    expect(f"the slowest query took {stock} ms on stock", stock > 200)
    expect(f"the slowest query took {ours} ms with finetcp", ours < 20)
    expect("it does not say who wins", "finetcp:tcp_rto_min=200 is best in 1 of 1" in results.said.stdout)


@case
def parts__put_together(results):
    """What --commands prints measures the cells; --import takes them over, or says why not"""
    shape = *STOCK, "--senders", "2,3", "--rounds", "5", "--warm-up", "0", "--seed", "77"
    run = [f"{TOP}/scripts/incast", "--results", results, *shape]
    commands = subprocess.run([*run, "--force", "--commands"], cwd=TOP, text=True, capture_output=True,
                              check=True).stdout.splitlines()
    expect(f"{len(commands)} commands for two cells", len(commands) == 2)
    found = "".join(subprocess.run(command, shell=True, cwd=TOP, text=True, capture_output=True, check=True).stdout
                    for command in commands)
    path = f"{TOP}/tests/.found"    # a place that the build environment sees
    try:
        for text, status, word in ((found, 0, "2 of them known"), (found.replace('"inputs": ["', '"inputs": ["x'), 1,
                                                                   "another kernel"), ("{}\n", 1, "not what")):
            with open(path, "w", encoding="ascii") as f:
                f.write(text)
            done = subprocess.run([*run, "--import", path], cwd=TOP, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, check=False)
            expect(f"exit status {done.returncode}: {done.stdout}",
                   done.returncode == status and word in done.stdout)
    finally:
        os.unlink(path)


@case
def wrong__changes_nothing(results):
    """What cannot be is refused before anything is measured, and leaves no file"""
    for args in (("--senders", "0"), ("--senders", "1,x"), ("--rate", "fast"), ("--buffer", "-1"), ("--red", "9-3"),
                 ("--loss", "100"), ("--share", "5-2"), ("--kernel", "linux"), ("--workload", "none"),
                 (*STOCK, "--senders", "1", "--cc", "no-such-one"),
                 ("--kernel", "stock:no_such_sysctl=1", "--senders", "1")):
        results.incast(*args, fails=True)
        expect(f"{args} left {files(results)}", not files(results))


def main():
    print(f"KTAP version 1\n1..{len(CASES)}", flush=True)
    failed = False
    for number, function in enumerate(CASES, 1):
        verdict = "ok"
        # Within the checkout: what is elsewhere, the build environment does not see.
        with tempfile.TemporaryDirectory(dir=f"{TOP}/tests", prefix=".fabric") as directory:
            try:
                function(Results(directory))
            except Exception as error:  # whatever it is, the case has failed
                failed, verdict = True, "not ok"
                print("# " + (str(error) or repr(error)).replace("\n", "\n# "))
                line = inspect.getinnerframes(error.__traceback__)[-1]
                print(f"#   {os.path.basename(line.filename)}:{line.lineno}")
        print(f"{verdict} {number} {function.__name__}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
