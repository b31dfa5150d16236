"""An adapter of your own in one file: sbp on HIPS autograd, a framework that sbp does not know.

    pip install autograd
    python -m sbp_conformance --backend examples.autograd_backend:make_engine

The equations, surrogates, schedules and compositions are the core's; cotangents, states and layouts are the suite's
harness's. What is left is the framework's own: arrays, a gradient, how a spike is differentiated, how a value is
detached, and a loop over time.
"""

import importlib.metadata

import autograd
import autograd.numpy as np
import numpy as onp
from autograd.builtins import tuple as ag_tuple
from autograd.extend import defvjp, primitive
from autograd.scipy.special import logsumexp

from sbp_core import LIFState, as_surrogate, dynamics
from sbp_core.composition import compose_loss, soft_cross_entropy
from sbp_core.inputs import check_input, check_state


def make_spike(surrogate, inclusive=False):
    """Return the step function whose derivative is the surrogate's."""
    surrogate = as_surrogate(surrogate)

    @primitive
    def spike(x):
        return (x >= 0 if inclusive else x > 0).astype(x.dtype)

    defvjp(spike, lambda _, x: lambda g: g * surrogate.derivative(x, onp))
    return spike


@primitive
def detach(x):
    """Return ``x``, outside the gradient."""
    return x


defvjp(detach, None)


def lif(x, spec, state=None, decay=None):
    """Run a neuron over ``x``, shape ``(time, batch, ...)``; state in, state out."""
    check_input(x.shape, str(x.dtype))
    if state is None:
        zero = onp.zeros(x.shape[1:], x.dtype)
        state = LIFState(**{part: zero + value for part, value in spec.start.items()})
    else:
        check_state(spec, state, x.shape[1:], str(x.dtype))
    spike = make_spike(spec.surrogate, spec.inclusive)
    outputs = []
    for t in range(x.shape[0]):
        output, state = dynamics.step(spec, state, x[t], spike=spike, detach=detach, decay=decay)
        outputs.append(output)
    return np.stack(outputs), state


def log_softmax(logits):
    """Return the logarithm of the softmax of the last axis."""
    return logits - logsumexp(logits, axis=-1, keepdims=True)


class AutogradEngine:
    """What sbp_core.backend.Engine asks for, and the parts that are offered."""

    name = "autograd"
    versions = {"autograd": importlib.metadata.version("autograd")}  # noqa: RUF012
    modes = ("eager",)
    dtypes = ("float64", "float32")

    def array(self, values, dtype):
        return onp.asarray(values, dtype)

    def numpy(self, array):
        return array

    def vjp(self, function, inputs, cotangents, mode):
        backward, outputs = autograd.make_vjp(lambda inputs: ag_tuple(function(*inputs)))(tuple(inputs))
        return outputs, backward(tuple(cotangents))

    def spike(self, x, surrogate, *, inclusive):
        return make_spike(surrogate, inclusive)(x)

    def neuron(self, spec, dtype):
        def run(x, state, decay_logit):
            decay = None if decay_logit is None else 1.0 / (1.0 + np.exp(-decay_logit))
            return lif(x, spec, state, decay)

        return run

    def loss(self, spec, output, labels, coefficient):
        shares = labels if labels.ndim > 1 else onp.eye(output.main.shape[-1], dtype=output.main.dtype)[labels]
        ours = {"log_softmax": log_softmax, "xp": np}

        def cross_entropy(logits):
            return soft_cross_entropy(logits, shares, **ours)

        others = {"labels": labels if labels.ndim == 1 else labels.argmax(-1), "detach": detach, **ours}
        return compose_loss(spec, output, coefficient, cross_entropy=cross_entropy, **others)

    def run(self, function, mode):
        return function


def make_engine():
    """Return the engine; the conformance suite calls this."""
    return AutogradEngine()
