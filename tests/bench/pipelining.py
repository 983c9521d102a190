#!/usr/bin/python3
"""Micro-batch pipelining: attention of one micro-batch while another's experts are out (MegaScale-Infer, arXiv 2504.02263).

Two hosts (network and IPC namespaces joined by a veth pair): router and coordinator on one, the expert node on the other, each kept to a CPU of its own. The
node computes with scalar kernels (FORESIGHT_ISA), so that its side of a step takes about as long as the router's. Runs with one and with two
micro-batches take turns; prints the tokens a second of each and their ratio. Needs root and two CPUs.

    tests/bench/pipelining.py [--streams 16] [--rounds 5] [--isa scalar] [--bin build/release/bin] [--json]"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOSTS = {"a": ("fs-bench-a", "10.217.0.1"), "b": ("fs-bench-b", "10.217.0.2")}


def sh(*words):
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_hosts():
    names = [name for name, _ in HOSTS.values()]
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    try:
        for name in names:
            sh("ip", "netns", "add", name)
        sh("ip", "link", "add", "fs-a", "netns", names[0], "type", "veth", "peer", "name", "fs-b", "netns", names[1])
        for (name, address), link in zip(HOSTS.values(), ("fs-a", "fs-b")):
            sh("ip", "-n", name, "addr", "add", f"{address}/24", "dev", link)
            sh("ip", "-n", name, "link", "set", link, "up")
            sh("ip", "-n", name, "link", "set", "lo", "up")
        while not all(" state UP " in subprocess.run(["ip", "-n", name, "link"], capture_output=True, text=True).stdout for name in names):
            time.sleep(0.05)  # UCX looks at its devices once, when a process starts
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Cluster:
    def __init__(self, bin_dir, isa, micro_batches):
        self.bin, self.isa, self.micro_batches, self.processes = bin_dir, isa, micro_batches, []

    def start(self, host, cpu, program, *arguments, isa=None):
        env = dict(os.environ, FORESIGHT_CLUSTER_KEY="00" * 32)
        if isa:
            env["FORESIGHT_ISA"] = isa
        command = ["ip", "netns", "exec", HOSTS[host][0], "unshare", "--ipc", "taskset", "-c", str(cpu), str(self.bin / program),
                   "--log-level", "error", *arguments]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    @staticmethod
    def ready(process):
        for line in process.stdout:
            if line.startswith("ready "):
                return dict(re.findall(r"(\w+)=(\S+)", line))["grpc"]
        sys.exit(f"{process.args[-1]}: ended before it was ready")

    def __enter__(self):
        model = ["--model", str(ROOT / "models/demo"), "--threads", "1"]
        address = {host: f"{ip}:0" for host, (_, ip) in HOSTS.items()}
        control = self.control = self.ready(self.start("a", 0, "foresight-coordinator", "--listen", address["a"], "--expert-nodes", "1"))
        self.start("b", 1, "foresight-expert", *model, "--coordinator", control, "--listen", address["b"], "--inline-budget", "0", isa=self.isa)
        router = self.start("a", 0, "foresight-router", *model, "--coordinator", control, "--listen", address["a"],
                            "--micro-batches", str(self.micro_batches))
        self.address = self.ready(router)
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def measure(self, streams, requests):
        """(tokens a second, share of the router's time in which it waited for experts)"""
        command = ["ip", "netns", "exec", HOSTS["a"][0], str(self.bin / "foresight"), "bench", "serve", "--connect", self.address,
                   "--streams", str(streams), "--requests", str(requests), "--max-tokens", "16", "--json"]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["rows"][0]
        return row["tokens_per_s"], row["parts"]["experts_wait"] / row["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", default="scalar", help="of the expert node")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = {1: [], 2: []}
    with two_hosts():
        for _ in range(args.rounds):
            for n in results:
                with Cluster(args.bin.resolve(), args.isa, n) as cluster:
                    results[n].append(cluster.measure(args.streams, 2 * args.streams))
    told = {n: {"tokens_per_s": statistics.median(r[0] for r in rows), "experts_wait": statistics.median(r[1] for r in rows)}
            for n, rows in results.items()}
    ratio = statistics.median(two[0] / one[0] for one, two in zip(results[1], results[2]))
    if args.json:
        print(json.dumps({"streams": args.streams, "isa": args.isa, "micro_batches": told, "ratio": ratio}))
        return
    for n, row in told.items():
        print(f"{n} micro-batch{'es' if n > 1 else ''}: {row['tokens_per_s']:8.1f} tokens/s, "
              f"{100 * row['experts_wait']:.0f} % of the time waiting for experts")
    print(f"two against one: {ratio:.2f} times the tokens a second (median of {args.rounds} pairs of runs)")


if __name__ == "__main__":
    main()
