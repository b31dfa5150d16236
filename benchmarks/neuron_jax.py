"""One LIF layer in JAX, forward and backward on a CPU, as a multiple of three copies of its tensor.

    taskset -c 0 python benchmarks/neuron_jax.py            # one core, one thread; --steps for the cost over time steps

The paper's neuron (hard reset, rectangle of width 1) in float32. Three copies (``jnp.copy``) are all the memory traffic
it needs. Contenders take turns within each round; the figures are medians of their ratios to the copies of the same
round, in processor time of the whole process, which other work on the machine disturbs less than the clock; or by the
clock, on every core (``--wall``).
Copies into fresh memory pages cost up to three times those into used ones, and vary: hence the second column.
spyx, where it is installed, runs its own LIF with its rectangle in the scan that it recommends. Notes: notes_xla.md.
"""

import importlib.util
import os

import xla_common

os.environ["XLA_FLAGS"] = xla_common.flags()

import jax
import jax.numpy as jnp

import sbp_jax


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
    return differentiated(lambda x: sbp_jax.lif(x, implementation=implementation)[0])


def plain_scan():
    """Return the straightforward scan, whose residuals JAX chooses."""

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


def finished(run):
    """Return ``run``, but it waits for its result."""
    return lambda x, cotangent: jax.block_until_ready(run(x, cotangent))


def inputs(shape):
    """Return an input and a cotangent."""
    return tuple(jax.random.normal(jax.random.key(seed), shape) for seed in (0, 1))


def main():
    options = xla_common.parsed(__doc__, "neuron_jax")
    made = {"three copies": copies, "sbp": sbp("auto"), "sbp, scan": sbp("scan"), "plain scan": plain_scan()}
    if importlib.util.find_spec("spyx"):
        made["spyx"] = spyx()
    runs = {name: finished(run) for name, run in xla_common.wanted(made, options).items()}
    xla_common.compare(runs, options, inputs, ("jax", "flax", "spyx"))


if __name__ == "__main__":
    main()
