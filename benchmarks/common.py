"""What the benchmarks of PyTorch share: rounds in turn, the machine, tables."""

import argparse
import gc
import importlib.metadata
import importlib.util
import os
import platform
import time
from pathlib import Path

import torch
from record import RESULTS, allocator

PACKAGES = ("torch", "numba", "triton", "spikingjelly", "snntorch", "norse")


def arguments(description, name):
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds of small cases: to see that it runs")
    parser.add_argument("--rounds", type=int, help="how often the contenders take turns")
    parser.add_argument("--threads", type=int, help="threads of torch; as many as torch takes unless given")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


def machine(device="cpu"):
    """Return where this runs, and the versions of what takes part."""
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load before": os.getloadavg()[0],
        "allocator": allocator(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    installed = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    return {"machine": found, "versions": {name: importlib.metadata.version(name) for name in installed}}


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def take_turns(runs, rounds, synchronize=lambda: None, clock=time.perf_counter):
    """Return each contender's times in seconds by the clock, round by round, after two rounds to warm up."""
    for run in runs.values():
        run()
        run()
    synchronize()
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            gc.collect(0)
            start = clock()
            run()
            synchronize()
            times[name].append(clock() - start)
    return times


def differentiated(forward, x, cotangent):
    """Return a forward and backward pass of ``forward``."""

    def run():
        return torch.autograd.grad(forward(x), x, cotangent)[0]

    return run


def three_copies(x):
    """Return what moves as many bytes as a layer whose backward keeps one tensor: three copies of the input."""
    source = x.detach()

    def run():
        return [source.clone() for _ in range(3)]

    return run


def table(headings, rows):
    """Print a table."""
    print("| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
