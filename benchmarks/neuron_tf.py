"""One LIF layer in TensorFlow and Keras, forward and backward on a CPU, as a multiple of three copies of its tensor.

    taskset -c 0 python benchmarks/neuron_tf.py            # one core, one thread; --steps for the cost over time steps

The paper's neuron (hard reset, rectangle of width 1) in float32. Three copies (``DeepCopy``) are all the memory traffic
it needs. Contenders take turns within each round; the figures are medians of their ratios to the copies of the same
round, in processor time of the whole process, which other work on the machine disturbs less than the clock; or by the
clock, on every core (``--wall``).
Copies into fresh memory pages cost up to three times those into used ones, and vary: hence the second column.
Notes: notes_xla.md.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

if "--wall" not in sys.argv:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf

import sbp_keras
import sbp_tf

ELEMENTS = 4 * 16 * 64 * 32 * 32


def copies(x, cotangent):
    """Move as many bytes as the layer must."""
    return [tf.raw_ops.DeepCopy(x=x) for _ in range(3)]


def differentiated(forward):
    """Return a forward and backward pass that gives the output and the gradient."""

    def run(x, cotangent):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = forward(x)
        return output, tape.gradient(output, x, cotangent)

    return run


def layer(implementation):
    """Return sbp's layer by one of its implementations."""
    return differentiated(lambda x: sbp_tf.lif(x, implementation=implementation)[0])


def keras_layer():
    """Return the Keras layer, whose input has time in second place."""
    neuron = sbp_keras.LIF()
    return differentiated(lambda x: neuron(x))


def contenders(names):
    """Return what is wanted, by name; without implementation, the automatic one."""
    made = {
        "three copies": copies,
        "sbp, XLA": tf.function(layer("auto"), jit_compile=True),
        "sbp, XLA, unrolled": tf.function(layer("unrolled"), jit_compile=True),
        "sbp, XLA, loop": tf.function(layer("loop"), jit_compile=True),
        "sbp, tf.function": tf.function(layer("auto")),
        "sbp, tf.function, unrolled": tf.function(layer("unrolled")),
        "sbp, eager": layer("auto"),
        "sbp_keras, XLA": tf.function(keras_layer(), jit_compile=True),
    }
    return {name: run for name, run in made.items() if not names or name in names or name == "three copies"}


def measure(runs, shape, rounds, clock):
    """Return each contender's times by a clock in seconds, round by round."""
    x, cotangent = (tf.random.stateless_normal(shape, (0, seed)) for seed in (0, 1))
    # in Keras the batch comes first
    swapped = tuple(tf.experimental.numpy.swapaxes(value, 0, 1) for value in (x, cotangent))
    times = {name: [] for name in runs}
    for round_ in range(rounds + 2):
        for name, run in runs.items():
            inputs = swapped if "keras" in name else (x, cotangent)
            start = clock()
            result = run(*inputs)
            result[-1].numpy()  # on a CPU this waits, and shares the memory
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
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/neuron_tf.json"))
    arguments = parser.parse_args()
    shapes = [(4, batch, 64, 32, 32) for batch in arguments.batch or (16, 64)]
    if arguments.steps:
        shapes = [(steps, ELEMENTS // 1024 // steps, 1024) for steps in (1, 2, 4, 5, 8, 16, 32, 64, 128, 256)]
    installed = ["tensorflow", "keras"]
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
    if not arguments.wall:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
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
