# SPDX-License-Identifier: GPL-2.0
"""What the benchmarks have in common: their command line, starting a guest, and
traffic in a fabric (scripts/fabric), of which each case is measured once."""

import argparse
import concurrent.futures
import csv
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time

HIDDEN = argparse.SUPPRESS      # help for what is not for people

SCRIPTS = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(SCRIPTS)
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
                     "finetcp", "bench")
SUBSET = os.path.join(CACHE, "subset")     # where results go that are not whole
SELF = os.path.realpath(sys.argv[0])
PROG = os.path.basename(SELF)
NAME = PROG.removeprefix("bench-")


def say(text):
    print(f"{PROG}: {text}", file=sys.stderr, flush=True)


def die(text):
    say(f"error: {text}")
    sys.exit(1)


def parser(doc, files=None, subset=""):
    """The command line: --help with the text, --results; more may be added"""
    p = argparse.ArgumentParser(prog=f"scripts/{PROG}", description=doc,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--results", metavar="DIR",
                   help=f"directory for {files or NAME + '.csv'} (default: results/ in the checkout{subset})")
    return p


def need_env():
    """Start this program again inside the build environment"""
    if not os.environ.get("FINETCP_ENV"):
        env = os.path.join(SCRIPTS, "env")
        os.execv(env, [env, "--", SELF, *sys.argv[1:]])


def output_of(script, *args):
    """The output of one of our scripts; what it says about its progress is shown"""
    run = subprocess.run([os.path.join(SCRIPTS, script), *args], cwd=TOP, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        die(f"scripts/{script} failed (exit status {run.returncode})")
    return run.stdout.strip()


def guest(script, options, *args):
    """Run this program again, in a guest that script (sim or vm) starts, and return the JSON that it
    prints last"""
    return json.loads(output_of(script, *options, "--", SELF, *args).splitlines()[-1])


def write_csv(directory, columns, rows, name=NAME):
    """Write the rows (dictionaries or lists) to NAME.csv; returns its path. The old one stays until the
    new one is whole"""
    path = os.path.join(directory or os.path.join(TOP, "results"), f"{name}.csv")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", newline="", encoding="ascii") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(columns)
        out.writerows([row[c] for c in columns] if isinstance(row, dict) else row for row in rows)
    os.replace(path + ".new", path)
    return path


def percentile(values, percent):
    """The value that so many of them do not exceed"""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


class Fabric:
    """Measures traffic in a fabric, a guest for each cell, a few at a time, and remembers them: a cell that
    was measured before, with the same kernel, module, tool and parameters, is not measured again.

    A cell is a dictionary of kernel ("stock" or "finetcp"), tuning ("default" or
    "SYSCTL=V,...", below net.ipv4), rate_mbit, buffer_pkts, senders and block_bytes. It may have
    client_tuning, which comes on top at the client, and what OPTIONS names. What is random in the guest
    follows from its seed. options(cell) are for "traffic client".
    """

    # Of scripts/fabric/topology, by what a cell calls them
    OPTIONS = {"senders": "--senders", "rate_mbit": "--rate", "server_rate_mbit": "--server-rate",
               "buffer_pkts": "--buffer", "red": "--red", "rtt_us": "--rtt", "rtt_spread_us": "--rtt-spread",
               "loss_percent": "--loss", "cc": "--cc", "seed": "--seed", "trace_us": "--trace"}
    SEED = 1            # of cells without one
    LOSSLESS = 20000    # packets of buffer: more than the senders ever have in flight

    def __init__(self, options, force=False):
        self.options = options
        self.force = force
        self.tool = output_of("compile", os.path.join(SCRIPTS, "fabric", "traffic.c"))
        self.topology = os.path.join(SCRIPTS, "fabric", "topology")
        self.common = [self.digest(path) for path in (
            self.tool, self.topology, os.path.join(SCRIPTS, "fabric", "watch"),
            os.path.join(SCRIPTS, "guest", "seed.c"))]
        self.inputs = {}

    @staticmethod
    def parser(*args):
        p = parser(*args)
        p.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N",
                       help="guests at a time (default: one a processor)")
        p.add_argument("--force", action="store_true", help="measure what is known, too")
        return p

    @staticmethod
    def digest(path):
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()

    def command(self, cell):
        args = [self.topology, "--tool", self.tool]
        for key, option in self.OPTIONS.items():
            if key in cell:
                args += [option, str(cell[key])]
        for option, tuning in ("--sysctl", cell["tuning"]), ("--client-sysctl", cell.get("client_tuning", "default")):
            if tuning != "default":
                for kv in tuning.split(","):
                    args += [option, f"net.ipv4.{kv}"]
        return args + ["--", "--block", str(cell["block_bytes"]), *map(str, self.options(cell))]

    def inputs_of(self, cell):
        """What the result depends on, besides the cell; equal in every checkout"""
        kernel = cell["kernel"]
        if kernel not in self.inputs:
            variant = ["um-stock"] if kernel == "stock" else ["um-patched", "--module"]
            self.inputs[kernel] = [*self.common, output_of("kernel", "id", *variant)]
        return self.inputs[kernel]

    def cache_file(self, cell):
        # Not the paths of topology and tool: their contents are among the inputs.
        key = json.dumps([self.inputs_of(cell), cell, self.command(cell)[3:]], sort_keys=True)
        return os.path.join(CACHE, "cells", hashlib.sha256(key.encode()).hexdigest()[:24] + ".json")

    def remember(self, cell, inputs, result):
        """Take over what another machine has measured"""
        if inputs != self.inputs_of(cell):
            die("a result comes from another kernel, module or tool than this checkout's")
        path = self.cache_file(cell)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "w", encoding="ascii") as f:
            json.dump(result, f)
        os.replace(path + ".new", path)

    def cached(self, cell):
        path = self.cache_file(cell)
        if self.force:
            return None
        try:
            with open(path, encoding="ascii") as f:
                return json.load(f)
        except (OSError, ValueError):
            return None

    def measure(self, cell):
        """Run one guest; returns the cell with its results. Those of --blocks-csv /dev/stdout are in blocks_ms,
        those of a trace in trace"""
        kernel = "stock" if cell["kernel"] == "stock" else "patched"
        run = subprocess.run([os.path.join(SCRIPTS, "sim"), "--kernel", kernel, "--seed", str(cell.get("seed", self.SEED)),
                              "--", *self.command(cell)],
                             cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        result, blocks, trace = {}, [], []
        for line in run.stdout.splitlines():
            if line.startswith("senders="):
                result = dict(kv.split("=", 1) for kv in line.split())
            elif line.startswith("trace,"):
                trace.append([float(field) for field in line.split(",")[1:]])
            elif line[:1].isdigit():
                blocks.append(float(line.split(",")[1]))
        if run.returncode or not result:
            raise RuntimeError(f"exit status {run.returncode}\n{run.stdout}{run.stderr}".rstrip())
        if int(result["losses"]) and "loss_percent" not in cell:
            raise RuntimeError("packets were dropped elsewhere than at the bottleneck")
        done = {**result, **({"blocks_ms": blocks} if blocks else {}), **({"trace": trace} if trace else {}), **cell}
        self.remember(cell, self.inputs_of(cell), done)
        return done

    @staticmethod
    def cost(cell):
        """Rough, relative: a boot, the links, the packets"""
        return 3 + cell["senders"] / 16

    def measure_all(self, cells, jobs, describe):
        """The results in the order of cells. Fails in the end if one cannot be measured"""
        results = [self.cached(c) for c in cells]
        todo = [i for i, r in enumerate(results) if r is None]
        # The long ones first, so that no processor idles at the end.
        todo.sort(key=lambda i: -self.cost(cells[i]))
        say(f"{len(cells)} cells, {len(cells) - len(todo)} of them known from before, {jobs} guests at a time")
        total, paid, start = sum(self.cost(cells[i]) for i in todo), 0, time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(self.measure, cells[i]): i for i in todo}
            try:
                for n, future in enumerate(concurrent.futures.as_completed(futures), 1):
                    i = futures[future]
                    paid += self.cost(cells[i])
                    left = (time.monotonic() - start) * (total - paid) / paid
                    try:
                        results[i] = future.result()
                        what = f"{float(results[i]['goodput_mbit']):.0f} Mbit/s"
                    except RuntimeError as e:
                        what = f"FAILED: {e}"
                    say(f"[{n}/{len(todo)}, {left:.0f} s to go] {describe(cells[i])}: {what}")
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                say("interrupted; the cells that are done are kept")
                os._exit(130)
        failed = results.count(None)
        if failed:
            die(f"{failed} of {len(cells)} cells could not be measured")
        return results


# Of lines in pictures, by kernel
COLORS = {"finetcp": ["#0b6e4f", "#49a078", "#8fc0a9", "#1d4e89", "#5fa8d3", "#7b6d8d"],
          "stock": ["#9b2226", "#e07a1f", "#b8860b", "#6d597a", "#355070", "#b56576"]}
FABRIC = {"senders": "{} servers", "rate_mbit": "{} Mbit/s", "buffer_pkts": "buffer {}", "block_bytes": "blocks of {}",
          "share_bytes": "{} each", "server_rate_mbit": "servers {} Mbit/s", "red": "RED {}", "rtt_us": "{} us",
          "rtt_spread_us": "spread {} us", "loss_percent": "{} % lost", "cc": "{}"}


def fabric_text(key, value):
    """What a cell's key says, in words"""
    if key == "block_bytes":
        value = int(value)
        value = f"{value >> 20} MiB" if value % (1 << 20) == 0 else f"{value} bytes"
    return FABRIC[key].format(value)


def goodput(cell, parts=10):
    """The goodput of a cell that has blocks_ms, in Mbit/s, and its standard error: from that of so many
    parts of the run, for blocks in a row are not independent"""
    def rate(blocks):
        return cell["block_bytes"] * 8 * len(blocks) / sum(blocks) / 1000
    blocks = cell["blocks_ms"]
    size = len(blocks) // parts
    if not size:
        raise ValueError(f"{len(blocks)} blocks cannot be cut into {parts} parts")
    rates = [rate(blocks[i * size:(i + 1) * size]) for i in range(parts)]
    return rate(blocks), statistics.stdev(rates) / parts ** 0.5


def pyplot():
    """matplotlib, for pictures that look alike"""
    os.environ.setdefault("MPLCONFIGDIR", "/tmp/matplotlib")
    import matplotlib  # noqa: PLC0415, only in the build environment
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
                         "svg.hashsalt": "finetcp"})
    return plt
