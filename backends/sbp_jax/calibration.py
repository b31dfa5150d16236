"""A start from one batch in JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from sbp_core import signal
from sbp_core.signal import Calibration
from sbp_core.signal.calibration import Factor
from sbp_jax.networks import Network
from sbp_jax.neurons import LIF
from sbp_jax.shortcut import Shortcut
from sbp_jax.taps import walk
from sbp_jax.weights import export_weights, import_weights


def calibrate(
    model: Network | Shortcut[Any],
    images: Any,
    **options: Unpack[signal.StartOptions],
) -> Calibration:
    """Give a fresh network first weights with which every layer fires and blocks begin near the identity.

    See :func:`sbp_core.signal.calibrate`: one pass over one batch, not compiled. Neurons are the spec's: build the
    network of ``at_identity(spec)``, at which a lone spike passes an identity path. Branches of a :class:`Shortcut`
    stay as they are.

    Args:
        model: a :class:`Network`, or a :class:`Shortcut` of one; its weights are changed.
        images: a batch as the model takes it; 64 samples tell enough.
        **options: ``residual``, ``mix`` and ``rates`` of :func:`sbp_core.signal.calibrate`.

    Returns:
        What was changed; ``print`` it. ``import_weights(net, export_weights(net) | found.before)`` undoes it.

    Raises:
        ValueError: a number out of range, or images that the model does not take.
        TypeError: another model.

    Example:
        >>> from sbp_jax import network
        >>> net = network("mlp", size=(4, 4), hidden=(8, 8), time_steps=2, rngs=nnx.Rngs(0))
        >>> found = calibrate(net, jax.random.normal(jax.random.key(0), (4, 4, 4, 1)))
        >>> [layer.neuron for layer in found.layers]
        ['hidden1.neuron', 'hidden2.neuron']
    """
    net: Any = model.main if isinstance(model, Shortcut) else model
    if not isinstance(net, Network):
        raise TypeError(f"model must be a Network or a Shortcut of one, got {type(net).__name__}")

    def run(weights: Mapping[str, NDArray[Any]], factor: Factor) -> None:
        twin: Any = nnx.clone(net)
        import_weights(twin, weights)
        twin.train()
        for name, _, module in walk(twin):
            if isinstance(module, LIF):
                object.__setattr__(module, "__class__", _scaled(type(module), ".".join(name), factor))
            elif isinstance(module, nnx.Dropout):
                module.deterministic = True
        twin(jnp.asarray(images))

    held = export_weights(net)
    found = signal.calibrate(net.spec, held, run, **options)
    import_weights(net, held | dict(found.after))
    return found


def _scaled(kind: Any, path: str, factor: Factor) -> type[LIF]:
    """Return the subclass whose instances multiply what goes into them."""

    def scaled(self: Any, x: jax.Array, *inputs: Any, **keywords: Any) -> Any:
        return kind.__call__(self, x * factor(path, np.asarray(x, np.float64)), *inputs, **keywords)

    return type(kind.__name__, (kind,), {"__call__": scaled, "__module__": kind.__module__})
