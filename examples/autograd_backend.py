"""A backend of your own: sbp on HIPS autograd, a framework that sbp does not know.

    pip install autograd
    python -m sbp_conformance --backend examples.autograd_backend:make_backend

The equations, surrogates, schedules and compositions are the core's. A backend brings three things: how a spike is
differentiated, how a value is detached, and a loop over time.
"""

import importlib.metadata
from types import MappingProxyType

import autograd
import autograd.numpy as np
import numpy as onp
from autograd.extend import defvjp, primitive
from autograd.scipy.special import logsumexp

from sbp_core import LIFState, ShortcutOutput, as_surrogate, dynamics
from sbp_core.backend import LossResult, NeuronResult, SpikeResult
from sbp_core.composition import compose_loss
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
        state = LIFState(
            zero + spec.rest,
            zero if spec.synaptic_decay is not None else None,
            zero if spec.stores_spikes else None,
        )
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


class AutogradBackend:
    """The contract: NumPy in, NumPy out. See sbp_core.backend.Backend."""

    name = "autograd"
    versions = MappingProxyType({"autograd": importlib.metadata.version("autograd")})
    modes = ("eager",)
    dtypes = ("float64", "float32")

    def spike(self, x, surrogate, cotangent, *, inclusive, dtype, mode):
        """Fire, and differentiate with the surrogate."""
        spike = make_spike(surrogate, inclusive)
        backward, spikes = autograd.make_vjp(spike)(onp.asarray(x, dtype))
        return SpikeResult(spikes, backward(onp.asarray(cotangent, dtype)), str(spikes.dtype))

    def neuron(self, spec, x, state, output_cotangent, state_cotangent, *, decay_logit, dtype, mode):
        """Run a neuron over time and differentiate."""

        def cast(parts):
            return LIFState(*(None if part is None else onp.asarray(part, dtype) for part in parts))

        weights = cast(state_cotangent)
        results = {}

        def objective(inputs):
            x, parts, logit = inputs
            given = None if state is None else LIFState(**dict(zip(names, parts, strict=True)))
            decay = None if decay_logit is None else 1.0 / (1.0 + np.exp(-logit))
            output, final = lif(x, spec, given, decay)
            results.update(output=output, final=final)
            total = np.sum(output * onp.asarray(output_cotangent, dtype))
            for part, weight in zip(final, weights, strict=True):
                if part is not None:
                    total = total + np.sum(part * weight)
            return total

        start = {} if state is None else {k: v for k, v in cast(state)._asdict().items() if v is not None}
        names = tuple(start)
        logit = onp.asarray(0.0 if decay_logit is None else decay_logit, dtype)
        grad_x, grad_parts, grad_logit = autograd.grad(objective)((onp.asarray(x, dtype), tuple(start.values()), logit))
        output, final = plain(results["output"]), LIFState(*map(plain, results["final"]))
        return NeuronResult(
            output,
            final,
            grad_x,
            LIFState(**({"potential": None} | dict(zip(names, grad_parts, strict=True)))),
            None if decay_logit is None else float(grad_logit),
            str(output.dtype),
        )

    def loss(self, main, branches, labels, coefficient, *, spec, dtype, mode):
        """Compose main and branch logits into the loss of a LossSpec and differentiate."""
        chosen = onp.arange(main.shape[-1]) == labels[:, None]  # (batch, classes); time, if any, comes before

        def objective(inputs):
            return compose_loss(
                spec,
                ShortcutOutput(*inputs),
                coefficient,
                cross_entropy=lambda logits: np.mean(-np.sum(np.where(chosen, log_softmax(logits), 0.0), axis=-1)),
                log_softmax=log_softmax,
                detach=detach,
                xp=np,
            )

        inputs = onp.asarray(main, dtype), tuple(onp.asarray(branch, dtype) for branch in branches)
        value, (grad_main, grad_branches) = autograd.value_and_grad(objective)(inputs)
        return LossResult(float(value), grad_main, tuple(grad_branches), dtype)

    def schedule(self, schedule, step, *, mode):
        """Read a schedule at an integer array."""
        return float(schedule(onp.asarray(step)))


def plain(value):
    """Return the array inside autograd's box."""
    while hasattr(value, "_value"):
        value = value._value
    return value


def make_backend():
    """Return the backend; the conformance suite calls this."""
    return AutogradBackend()
