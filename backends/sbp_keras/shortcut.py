"""Shortcut back-propagation around a functional model, for ``compile`` and ``fit``."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import keras
from keras import ops

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits, sum_losses
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_keras.losses import branch_outputs, main_output
from sbp_keras.readout import Readout
from sbp_keras.taps import tap_model


class _Untracked(NamedTuple):
    """Hides a model from Keras's tracking: its layers are the main model's and must count once."""

    model: Any


@keras.saving.register_keras_serializable(package="sbp")
class ShortcutModel(keras.Model):
    """A functional model with a branch from each tapped block to the output (Guo et al. 2024, Eq. 6-10).

    In training the model gives ``b_n(x) + lambda * sum_l b_l(x)``, with ``lambda`` the weight ``coefficient``, which
    :class:`~sbp_keras.ShortcutCallback` moves; otherwise it gives ``b_n(x)``, and the branches do not run. So ``fit``
    reports the composed loss and the metrics of the sum, while ``val_*``, ``evaluate`` and ``predict`` are the main
    model's alone. In a loop of your own, set ``model.coefficient.assign(value)``.

    With ``combine="losses"`` training gives ``ShortcutOutput(main, branches)``, and ``fit`` minimises
    ``L(main) + lambda * sum_l L(branch_l)`` with the compiled loss as L; its metrics are then the main model's.

    The net itself is not changed: ``model.main`` is the object that went in, and :meth:`strip` returns it.

    Args:
        net: a functional model, ``(batch, ...)`` to logits ``(batch, num_classes)``.
        taps: names of layers whose outputs, ``(batch, time, ..., channels)``, get a branch each.
        num_classes: logits of a branch, as many as the net's.
        combine: "logits" or "losses".
        coefficient: where the weight of the branches starts; 1 is the paper's plain shortcut.
        time_axis: axis of time in the tapped outputs, None for a net without time.
        channel_axis: axis of the channels in the tapped outputs.
        **arguments: ``name``, ``dtype`` and ``trainable``, as in every Keras model.

    Raises:
        ValueError: a tap that does not exist (those that do are listed) or is called more than once, an unknown
            composition, axes that a tapped output has not, or a net whose output is not ``(batch, num_classes)``.
        TypeError: a net that cannot be tapped; the message says what to do.

    Example:
        >>> inputs = keras.Input((4, 8))
        >>> hidden = keras.layers.Dense(3, name="hidden")(inputs)
        >>> net = keras.Model(inputs, Readout(2)(hidden))
        >>> model = ShortcutModel(net, taps=["hidden"], num_classes=2)
        >>> model.main is net and model.strip() is net
        True
    """

    def __init__(
        self,
        net: keras.Model,
        taps: Sequence[str],
        num_classes: int,
        combine: Literal["logits", "losses"] = "logits",
        *,
        coefficient: float = 1.0,
        time_axis: int | None = 1,
        channel_axis: int = -1,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.spec = ShortcutSpec(taps=cast("tuple[str, ...]", taps), combine=combine)
        self.num_classes = validation.count("num_classes", num_classes)
        self.time_axis = time_axis
        self.channel_axis = channel_axis
        tapped = tap_model(net, self.spec)
        if tuple(net.output_shape)[1:] != (num_classes,):
            raise ValueError(f"net must give (batch, {num_classes}), num_classes logits; it gives {net.output_shape}")
        self._tapped = _Untracked(tapped)
        self.main = net
        self.branches = []
        for tap, tensor in zip(self.spec.taps, tapped.outputs[:-1], strict=True):
            branch = Readout(num_classes, time_axis, channel_axis, name=f"branch_{tap}", dtype=self.dtype_policy)
            branch.build(tensor.shape)
            self.branches.append(branch)
        self.coefficient = self.add_weight(
            name="coefficient",
            shape=(),
            initializer=keras.initializers.Constant(validation.finite("coefficient", coefficient)),
            trainable=False,
            autocast=False,
        )
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the main logits; in training the composed ones, or all of them for ``combine="losses"``."""
        if not training:
            return self.main(inputs, training=training)
        *blocks, main = self._tapped.model(inputs, training=True)
        branches = tuple(
            ops.cast(branch(block), main.dtype) for branch, block in zip(self.branches, blocks, strict=True)
        )
        if self.spec.combine == "losses":
            return ShortcutOutput(main, branches)
        return sum_logits(main, branches, ops.cast(self.coefficient, main.dtype))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the compiled loss; over main and branches, their weighted sum (see ``combine="losses"``)."""
        main = super().compute_loss(x, y, main_output(y_pred), sample_weight, training)
        branches = branch_outputs(y_pred)
        if not branches:
            return main
        criterion = _Criterion(self.loss)
        losses = [criterion(y, branch, sample_weight) for branch in branches]
        return sum_losses(main, [ops.cast(loss, main.dtype) for loss in losses], ops.cast(self.coefficient, main.dtype))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics; where main and branches are apart, with the main output."""
        return super().compute_metrics(x, y, main_output(y_pred), sample_weight)

    def strip(self) -> keras.Model:
        """Return the model that went in, as it was."""
        return self.main

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, the main model's within it."""
        config: dict[str, Any] = super().get_config()
        return config | {
            "net": keras.saving.serialize_keras_object(self.main),
            "taps": list(self.spec.taps),
            "num_classes": self.num_classes,
            "combine": self.spec.combine,
            "time_axis": self.time_axis,
            "channel_axis": self.channel_axis,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ShortcutModel:
        """Return the model that :meth:`get_config` describes, with new weights."""
        net = keras.saving.deserialize_keras_object(config["net"], custom_objects=custom_objects)
        return cls(**(config | {"net": net}))


class _Criterion(keras.losses.Loss):
    """The compiled loss, applied to a branch: a loss object as it is, a function reduced as ``compile`` would."""

    def __init__(self, loss: Any) -> None:
        super().__init__(name="branch_loss")
        if isinstance(loss, list | tuple | dict):
            raise ValueError(f"combine='losses' needs one loss for the logits in compile(), got {loss!r}")
        self._loss = keras.losses.get(loss)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the reduced loss."""
        if isinstance(self._loss, keras.losses.Loss):
            return self._loss(y_true, y_pred, sample_weight=sample_weight)
        return super().__call__(y_true, y_pred, sample_weight=sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each sample."""
        return self._loss(y_true, y_pred)
