"""What the benchmarks under XLA share: the options, turns by one clock, tables. It starts no framework."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from record import RESULTS, allocator, ratio, write

ELEMENTS = 4 * 16 * 64 * 32 * 32
WALL = "--wall" in sys.argv


def flags():
    """Return XLA's flags, for one thread unless the clock on the wall is asked for."""
    given = os.environ.get("XLA_FLAGS", "")
    return given if WALL else f"{given} --xla_cpu_multi_thread_eigen=false".strip()


def parsed(description, name):
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, action="append", help="batch sizes; 16 and 64 by default")
    parser.add_argument("--steps", action="store_true", help="T = 1..256 with the number of elements kept")
    parser.add_argument("--wall", action="store_true", help="by the clock, on every core")
    parser.add_argument("--only", action="append", help="names of contenders")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser.parse_args()


def wanted(contenders, options):
    """Return the contenders that are asked for, and the copies."""
    names = {"three copies", *(options.only or contenders)}
    return {name: run for name, run in contenders.items() if name in names}


def compare(runs, options, inputs, packages, arranged=lambda name, arrays: arrays):
    """Time the contenders on every shape, print the tables and write the result.

    Args:
        runs: a function of two arrays by name, that returns when its result is there.
        options: of the command line.
        inputs: a function of the shape that returns the two arrays.
        packages: whose versions to write down, where they are installed.
        arranged: what a contender takes instead of them.
    """
    shapes = [(4, batch, 64, 32, 32) for batch in options.batch or (16, 64)]
    if options.steps:
        shapes = [(steps, ELEMENTS // 1024 // steps, 1024) for steps in (1, 2, 4, 5, 8, 16, 32, 64, 128, 256)]
    result = {
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "clock": "perf_counter" if WALL else "process_time",
            "allocator": allocator(),
        },
        "versions": {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)},
        "cases": [],
    }
    for shape in shapes:
        print(f"\nLIF forward + backward, float32, shape {shape}, {options.rounds} rounds\n")
        arrays = inputs(shape)
        times = _take_turns(runs, {name: arranged(name, arrays) for name in runs}, options.rounds)
        _print(times)
        result["cases"].append({"shape": shape, "seconds": times})
    write(options.out, result)


def _take_turns(runs, inputs, rounds):
    """Return each contender's times in seconds, round by round, after two rounds to warm up."""
    clock = time.perf_counter if WALL else time.process_time
    times = {name: [] for name in runs}
    for round_ in range(rounds + 2):
        for name, run in runs.items():
            start = clock()
            result = run(*inputs[name])
            passed = clock() - start
            del result
            if round_ >= 2:
                times[name].append(passed)
    return times


def _print(times):
    """Print medians as multiples of the copies: in the same round, and of the fastest copies of all rounds."""
    floor = times["three copies"]
    print("| | of three copies | of the fastest copies | median ms |\n|---|---|---|---|")
    for name, values in times.items():
        median = statistics.median(values)
        same_round = ratio(times, name, "three copies")
        print(f"| {name} | {same_round:.2f} | {median / min(floor):.2f} | {1e3 * median:.1f} |", flush=True)
