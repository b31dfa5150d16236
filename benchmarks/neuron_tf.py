"""One LIF layer in TensorFlow and Keras, forward and backward on a CPU, as a multiple of three copies of its tensor.

    taskset -c 0 python benchmarks/neuron_tf.py            # one core, one thread; --steps for the cost over time steps

The paper's neuron (hard reset, rectangle of width 1) in float32. Three copies (``DeepCopy``) are all the memory traffic
it needs. Contenders take turns within each round; the figures are medians of their ratios to the copies of the same
round, in processor time of the whole process, which other work on the machine disturbs less than the clock; or by the
clock, on every core (``--wall``).
Copies into fresh memory pages cost up to three times those into used ones, and vary: hence the second column.
Notes: notes_xla.md.
"""

import os

import xla_common

os.environ["XLA_FLAGS"] = xla_common.flags()
os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf

import sbp_keras
import sbp_tf


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


def finished(run):
    """Return ``run``, but it waits for its result: on a CPU ``numpy()`` does, and shares the memory."""

    def wait(x, cotangent):
        result = run(x, cotangent)
        result[-1].numpy()
        return result

    return wait


def inputs(shape):
    """Return an input and a cotangent."""
    return tuple(tf.random.stateless_normal(shape, (0, seed)) for seed in (0, 1))


def arranged(name, arrays):
    """Return them as a contender takes them: in Keras the batch comes first."""
    if "keras" not in name:
        return arrays
    return tuple(tf.experimental.numpy.swapaxes(array, 0, 1) for array in arrays)


def main():
    options = xla_common.parsed(__doc__, "neuron_tf")
    if not options.wall:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    made = {
        "three copies": copies,
        "sbp, XLA": tf.function(layer("auto"), jit_compile=True),
        "sbp, XLA, unrolled": tf.function(layer("unrolled"), jit_compile=True),
        "sbp, XLA, loop": tf.function(layer("loop"), jit_compile=True),
        "sbp, tf.function": tf.function(layer("auto")),
        "sbp, tf.function, unrolled": tf.function(layer("unrolled")),
        "sbp, eager": layer("auto"),
        "sbp_keras, XLA": tf.function(differentiated(sbp_keras.LIF()), jit_compile=True),
    }
    runs = {name: finished(run) for name, run in xla_common.wanted(made, options).items()}
    xla_common.compare(runs, options, inputs, ("tensorflow", "keras"), arranged)


if __name__ == "__main__":
    main()
