"""TensorFlow under the contract: its native operations, eager and compiled with XLA. Keras on it offers networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sbp_core.backend import Array, Mode
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.surrogates import Surrogate
from sbp_tf.losses import ShortcutLoss
from sbp_tf.neuron import lif
from sbp_tf.spike import spike


class TensorFlowEngine:
    """Tensors and tapes; compiled is ``tf.function(jit_compile=True)``."""

    name: str = "tf"
    versions: Mapping[str, str] = {"tensorflow": tf.__version__}
    modes: Sequence[Mode] = ("eager", "compiled")
    dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16")

    def array(self, values: Array, dtype: str | None) -> tf.Tensor:
        """Return a tensor, of int32 where there is no dtype."""
        return tf.cast(tf.convert_to_tensor(values), dtype or tf.int32)

    def numpy(self, array: tf.Tensor) -> Array:
        """Return a tensor's values."""
        return np.asarray(array.numpy())

    def vjp(
        self, function: Callable[..., Sequence[Any]], inputs: Sequence[Any], cotangents: Sequence[Any], mode: Mode
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Run, and pull back with a tape."""

        def both(inputs: list[tf.Tensor], cotangents: list[tf.Tensor]) -> tuple[list[Any], list[Any]]:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = list(function(*inputs))
            return outputs, tape.gradient(outputs, inputs, cotangents, unconnected_gradients="zero")

        found: tuple[list[Any], list[Any]] = self.run(both, mode)(list(inputs), list(cotangents))
        return found

    def run(self, function: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
        """Return the function, or what compiles it when it is called."""
        if mode == "eager":
            return function
        compiled = tf.function(function, jit_compile=True, autograph=False)

        def call(*arguments: Any) -> Any:
            # traced by hand: every case is a function of its own, and TensorFlow would warn that it retraces
            return compiled.get_concrete_function(*arguments)(*arguments)

        return call

    def spike(self, x: tf.Tensor, surrogate: Surrogate, *, inclusive: bool) -> tf.Tensor:
        """Fire."""
        return spike(x, surrogate, inclusive=inclusive)

    def neuron(self, spec: LIFSpec, dtype: str) -> Callable[..., tuple[tf.Tensor, LIFState]]:
        """Return the neuron over time."""

        def run(x: tf.Tensor, state: LIFState | None, decay_logit: tf.Tensor | None) -> tuple[tf.Tensor, LIFState]:
            decay = None if decay_logit is None else tf.sigmoid(decay_logit)
            output, final = lif(x, spec, state, decay=decay)
            return output, final

        return run

    def loss(self, spec: LossSpec, output: ShortcutOutput, labels: tf.Tensor, coefficient: tf.Tensor) -> tf.Tensor:
        """Compose the loss."""
        return ShortcutLoss(spec)(output, labels, coefficient)


def make_engine() -> TensorFlowEngine:
    """Return the engine."""
    return TensorFlowEngine()
