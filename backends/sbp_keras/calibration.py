"""A start from one batch in Keras, on each of its backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from sbp_core import signal
from sbp_core.signal import Calibration
from sbp_core.signal.calibration import Factor
from sbp_keras.diagnosis import neuron_paths, watched
from sbp_keras.networks import Network
from sbp_keras.shortcut import ShortcutModel
from sbp_keras.weights import export_weights, import_weights


def calibrate(
    model: keras.Model,
    images: Any,
    **options: Unpack[signal.StartOptions],
) -> Calibration:
    """Give a fresh network first weights with which every layer fires and blocks begin near the identity.

    See :func:`sbp_core.signal.calibrate`: one pass over one batch, not compiled. Neurons are the spec's: build the
    network of ``at_identity(spec)``, at which a lone spike passes an identity path. Branches of a
    :class:`ShortcutModel` stay as they are.

    Args:
        model: a :class:`Network`, or a :class:`ShortcutModel` of one; its weights are changed.
        images: a batch as the model takes it; 64 samples tell enough.
        **options: ``residual``, ``mix`` and ``rates`` of :func:`sbp_core.signal.calibrate`.

    Returns:
        What was changed; ``print`` it. ``import_weights(net, export_weights(net) | found.before)`` undoes it.

    Raises:
        ValueError: a number out of range, or images that the model does not take.
        TypeError: another model.

    Example:
        >>> import numpy as np
        >>> from sbp_keras import network
        >>> net = network("mlp", (4, 4, 1), size=(4, 4), hidden=(8, 8), time_steps=2)
        >>> found = calibrate(net, np.random.default_rng(1).normal(size=(4, 4, 4, 1)).astype("float32"))
        >>> [layer.neuron for layer in found.layers]
        ['hidden1.neuron', 'hidden2.neuron']
    """
    net = model.main if isinstance(model, ShortcutModel) else model
    if not isinstance(net, Network):
        raise TypeError(f"model must be a Network or a ShortcutModel of one, got {type(net).__name__}")

    def run(weights: Mapping[str, NDArray[Any]], factor: Factor) -> None:
        def meet(path: str, inputs: Any) -> Any:
            # time leads there
            return inputs * factor(path, np.swapaxes(np.asarray(ops.convert_to_numpy(inputs), np.float64), 0, 1))

        # in the scope alone there are the weights, and what moves in training
        scope = [(variable, ops.copy(variable.value)) for variable in net.variables]
        with watched(net, neuron_paths(net), meet), keras.StatelessScope(scope):
            import_weights(net, weights)
            net(ops.convert_to_tensor(images), training=True)

    held = export_weights(net)
    found = signal.calibrate(net.spec, held, run, **options)
    import_weights(net, held | dict(found.after))
    return found
