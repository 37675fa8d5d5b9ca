#!/usr/bin/env python3
"""jetc beside llama.cpp and PyTorch on this machine, in one run: rounds in turn, foreign load recorded, contended rounds repeated.

    scripts/bench-peers.py NAME=model.jetbin .. [--llama NAME=model.gguf ..] [--torch PYTHON] [--out docs/cpu.md]

Each round measures every candidate once, one after the other. A candidate that other programs disturbed (they used more than a
tenth of a processor while it ran) is measured again, at most three times; the load of what counts is in the table. The table has the
medians of the rounds, the share of the limits that `jetc bench` samples beside its own calls, and ratios to the first candidate.

llama.cpp and PyTorch are peers where a Python that has them is named (--python for llama-cpp-python, --torch for torch).
`scripts/peers/llama_model.py` makes models to compare with.
"""
import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CONTENDED = 0.1
ATTEMPTS = 3


def busy_seconds():
    """Processor time of all programs since the machine started."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def once(command):
    """The rows that a command prints, and how many processors other programs used meanwhile."""
    start, busy, own = time.monotonic(), busy_seconds(), own_seconds()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr.strip()}")
    elapsed = time.monotonic() - start
    foreign = max(0.0, (busy_seconds() - busy) - (own_seconds() - own)) / elapsed
    return json.loads(done.stdout), foreign


def undisturbed(command):
    attempts = []
    for _ in range(ATTEMPTS):
        attempts.append(once(command))
        if attempts[-1][1] <= CONTENDED:
            break
    return min(attempts, key=lambda attempt: attempt[1])


def jetc_rows(report):
    """`{test: (tokens per second, share of reading, share of f32 wide, of bf16 dot, of int8 dot)}`."""
    share = lambda row: (row["read_share"], *(row["shares"][kind] for kind in ("f32_wide", "bf16_dot", "int8_dot")))
    return {row["test"]: (row["avg_ts"], share(row)) for row in report["rows"]}


def peer_rows(report):
    return {test: (rate, None) for test, rate in report.items()}


def candidates(args):
    """Name, command, and how to read what it prints."""
    prompts, generate = ",".join(map(str, args.prompts)), str(args.generate)
    found = []
    for name, path in args.artifacts:
        command = [args.jetc, "bench", path, "-p", prompts, "-n", generate, "-r", "1", "-t", str(args.threads), "-o", "json"]
        found.append((name, command, jetc_rows))
    shape = ["--prompts", prompts, "--generate", generate, "--threads", str(args.threads)]
    for name, path in args.llama:
        found.append((f"llama.cpp {name}", [args.python, HERE / "peers/llama_bench.py", path, *shape], peer_rows))
    if args.torch:
        found.append(("PyTorch, whole model", [args.torch, HERE / "peers/torch_model.py", *shape], peer_rows))
        found.append(("PyTorch, products alone", [args.torch, HERE / "peers/torch_bench.py", *shape], peer_rows))
    return found


def table(args, found, samples, loads):
    tests = [f"pp{n}" for n in args.prompts] + [f"tg{args.generate}"]
    median = lambda name, test: statistics.median(rows[test][0] for rows in samples[name])
    first = found[0][0]
    lines = [f"{machine()}, {args.threads} threads, {args.rounds} rounds, {time.strftime('%Y-%m-%d')}, commit {commit()}.", ""]
    lines.append("| | " + " | ".join(f"{test}, tok/s | of the limit | to {first}" for test in tests) + " | foreign load |")
    lines.append("| --- |" + " ---: | ---: | ---: |" * len(tests) + " ---: |")
    for name, _, _ in found:
        cells = []
        for test in tests:
            shares = [rows[test][1] for rows in samples[name]]
            cells += [f"{median(name, test):.2f}", limit(test, shares), f"{median(name, test) / median(first, test):.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {max(loads[name]):.2f} |")
    return "\n".join(lines) + "\n"


def limit(test, shares):
    """The share of reading for generation; for prompts those of f32 wide, bf16 dot and int8 dot."""
    if shares[0] is None:
        return ""
    medians = [statistics.median(column) for column in zip(*shares)]
    shown = medians[:1] if test.startswith("tg") else medians[1:]
    return " / ".join(f"{100 * share:.0f} %" for share in shown)


def machine():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{len(names)} processors of {names[0] if names else platform.machine()}"


def commit():
    done = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def named(text):
    name, separator, path = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=PATH")
    return name, path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=named, metavar="NAME=ARTIFACT")
    parser.add_argument("--jetc", default=HERE.parent / "target/release/jetc")
    parser.add_argument("--llama", action="append", type=named, default=[], metavar="NAME=GGUF")
    parser.add_argument("--python", default=sys.executable, help="a Python with llama-cpp-python (default: this one)")
    parser.add_argument("--torch", help="a Python with torch")
    parser.add_argument("--prompts", type=lambda text: list(map(int, text.split(","))), default=[128, 512])
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="also append the table to this file")
    args = parser.parse_args()
    found = candidates(args)
    samples = {name: [] for name, _, _ in found}
    loads = {name: [] for name, _, _ in found}
    for round_ in range(1, args.rounds + 1):
        for name, command, read in found:
            print(f"round {round_} of {args.rounds}: {name}", file=sys.stderr)
            report, foreign = undisturbed(command)
            samples[name].append(read(report))
            loads[name].append(foreign)
    text = table(args, found, samples, loads)
    print(text)
    if args.out:
        with open(args.out, "a") as out:
            out.write("\n" + text)


if __name__ == "__main__":
    main()
