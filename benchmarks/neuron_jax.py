"""One LIF layer in JAX, forward and backward on a CPU, as a multiple of three copies of its tensor.

    taskset -c 0 python benchmarks/neuron_jax.py            # one core, one thread; --steps for the cost over time steps

The paper's neuron (hard reset, rectangle of width 1) in float32. Three copies (``jnp.copy``) are all the memory traffic
it needs. Contenders take turns within each round; the figures are medians of their ratios to the copies of the same
round, in processor time of the whole process, which other work on the machine disturbs less than the clock; or by the
clock, on every core (``--wall``).
Copies into fresh memory pages cost up to three times those into used ones, and vary: hence the second column.
spyx, where it is installed, runs its own LIF with its rectangle in the scan that it recommends. Notes: notes_xla.md.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

if "--wall" not in sys.argv:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()

import jax
import jax.numpy as jnp

ELEMENTS = 4 * 16 * 64 * 32 * 32


def copies(x, cotangent):
    """Move as many bytes as the layer must."""
    return [jnp.copy(x) for _ in range(3)]


def differentiated(forward):
    """Return a compiled forward and backward pass that gives the output and the gradient."""

    def run(x, cotangent):
        output, pull = jax.vjp(forward, x)
        return output, pull(cotangent)[0]

    return jax.jit(run)


def sbp(implementation):
    """Return sbp's layer by one of its implementations."""
    import sbp_jax

    return differentiated(lambda x: sbp_jax.lif(x, implementation=implementation)[0])


def plain_scan():
    """Return the straightforward scan, whose residuals JAX chooses."""
    import sbp_jax

    def step(potential, now):
        before = 0.5 * potential + now
        spikes = sbp_jax.spike(before - 1.0)
        return before * (1.0 - spikes), spikes

    return differentiated(lambda x: jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1])


def spyx():
    """Return spyx's LIF, scanned over time as its documentation does."""
    import spyx.nn
    from flax import nnx

    def forward(x):
        layer = spyx.nn.LIF(x.shape[2:], beta=0.5, activation=spyx.axn.boxcar(), rngs=nnx.Rngs(0))

        def step(state, now):
            spikes, state = layer(now, state)
            return state, spikes

        return jax.lax.scan(step, layer.initial_state(x.shape[1]), x)[1]

    return differentiated(forward)


def contenders(names):
    """Return what is installed and wanted, by name."""
    made = {"three copies": lambda: copies}
    if importlib.util.find_spec("sbp_jax"):
        made |= {"sbp": lambda: sbp("auto"), "sbp, scan": lambda: sbp("scan"), "plain scan": plain_scan}
    if importlib.util.find_spec("spyx"):
        made["spyx"] = spyx
    return {name: make() for name, make in made.items() if not names or name in names or name == "three copies"}


def measure(runs, shape, rounds, clock):
    """Return each contender's times by a clock in seconds, round by round."""
    x, cotangent = (jax.random.normal(jax.random.key(seed), shape) for seed in (0, 1))
    times = {name: [] for name in runs}
    for round_ in range(rounds + 2):
        for name, run in runs.items():
            start = clock()
            result = jax.block_until_ready(run(x, cotangent))
            passed = clock() - start
            del result
            if round_ >= 2:
                times[name].append(passed)
    return times


def table(times):
    """Print medians as multiples of the copies: in the same round, and of the fastest copies of all rounds."""
    floor = times["three copies"]
    print("| | of three copies | of the fastest copies | median ms |\n|---|---|---|---|")
    for name, values in times.items():
        ratio = statistics.median(value / base for value, base in zip(values, floor, strict=True))
        median = statistics.median(values)
        print(f"| {name} | {ratio:.2f} | {median / min(floor):.2f} | {1e3 * median:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, action="append", help="batch sizes; 16 and 64 by default")
    parser.add_argument("--steps", action="store_true", help="T = 1..256 with the number of elements kept")
    parser.add_argument("--wall", action="store_true", help="by the clock, on every core")
    parser.add_argument("--only", action="append", help="names of contenders")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/neuron_jax.json"))
    arguments = parser.parse_args()
    shapes = [(4, batch, 64, 32, 32) for batch in arguments.batch or (16, 64)]
    if arguments.steps:
        shapes = [(steps, ELEMENTS // 1024 // steps, 1024) for steps in (1, 2, 4, 5, 8, 16, 32, 64, 128, 256)]
    installed = [name for name in ("jax", "flax", "spyx") if importlib.util.find_spec(name)]
    result = {
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "clock": "perf_counter" if arguments.wall else "process_time",
            "allocator": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        },
        "versions": {package: importlib.metadata.version(package) for package in installed},
        "cases": [],
    }
    runs = contenders(arguments.only)
    for shape in shapes:
        print(f"\nLIF forward + backward, float32, shape {shape}, {arguments.rounds} rounds\n")
        times = measure(runs, shape, arguments.rounds, time.perf_counter if arguments.wall else time.process_time)
        table(times)
        result["cases"].append({"shape": shape, "seconds": times})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    partial = arguments.out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1))
    partial.replace(arguments.out)


if __name__ == "__main__":
    main()
