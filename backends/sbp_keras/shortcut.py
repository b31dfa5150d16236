"""Shortcut back-propagation around a functional model, for ``compile`` and ``fit``."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, cast

import keras
from keras import ops

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, compose_loss, sum_logits
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_keras.branches import Branch, make_branches
from sbp_keras.numerics import mean
from sbp_keras.taps import TapModel


@keras.saving.register_keras_serializable(package="sbp")
class ShortcutModel(keras.Model):
    """A functional model with a branch from each tapped block to the output (Guo et al. 2024, Eq. 6-10).

    In training the model gives ``b_n(x) + lambda * sum_l b_l(x)``, with ``lambda`` the weight ``coefficient``;
    otherwise it gives ``b_n(x)``, and the branches do not run. So ``fit`` reports the composed loss and the metrics of
    the sum, while ``val_*``, ``evaluate`` and ``predict`` are the main model's alone.

    With ``combine="losses"`` training gives ``ShortcutOutput(main, branches)``, and ``fit`` minimises
    ``L(main) + lambda * sum_l L(branch_l)`` with the compiled loss as L; its metrics are then the main model's. A
    ``loss_spec`` adds supervision of every time step and distillation of the branches, with the compiled loss as the
    cross-entropy of :func:`sbp_core.composition.compose_loss`; weights of samples and classes are the compiled loss's.

    The coefficient moves by itself where the model has a ``schedule``: the k-th call in training, counted by the
    weight ``step``, uses ``schedule(k)``. That is computed inside the compiled step, so it holds in ``fit``,
    ``train_on_batch``, a loop of your own, and with several steps per execution. :class:`~sbp_keras.ShortcutCallback`
    sets a schedule that counts its steps from ``fit``. Without a schedule set ``model.coefficient.assign(value)``.
    If the compiled optimizer accumulates gradients over n steps, these n use the coefficient of the last of them.

    The net itself is not changed: ``model.main`` is the object that went in, and :meth:`strip` returns it. Schedule,
    step and coefficient are saved with the model, so that training resumes where it was.

    Args:
        net: a functional model with any inputs, to logits ``(batch, num_classes)``.
        taps: names of layers whose outputs, ``(batch, time, ..., channels)``, get a branch each; in a model used as a
            layer ``"encoder/block3"``, of a layer with several outputs ``"lstm:0"``.
        num_classes: logits of a branch, as many as the net's.
        combine: "logits", the default, or "losses".
        branch: "linear", the paper's :class:`~sbp_keras.Readout`; "convolutional", a small head
            (:class:`~sbp_keras.ConvolutionalReadout`); a function of ``(channels, num_classes)`` that returns a layer
            of your own, tapped output to logits; or a mapping from each tap to such a layer.
        loss_spec: what main and branches are held to, instead of ``combine``. With ``per_step`` the net must end in
            the mean over time, and training gives logits ``(batch, time, num_classes)``.
        schedule: the coefficient as a function of the step, or its ``to_dict()``.
        coefficient: where the weight of the branches starts; 1 is the paper's plain shortcut.
        time_axis: axis of time in the tapped outputs, None for a net without time.
        channel_axis: axis of the channels in the tapped outputs.
        dtype: dtype or dtype policy of the model and its branches; the first tapped layer's unless given. Under
            "mixed_float16" ``compile`` scales the loss.
        **arguments: ``name`` and ``trainable``, as in every Keras model.

    Raises:
        ValueError: a tap that does not exist (those that do are listed) or is called more than once, an unknown
            composition, axes that a tapped output has not, a net whose output is not ``(batch, num_classes)``, a
            branch that does not fit, or a schedule without ``total_steps``.
        TypeError: a net that cannot be tapped (the message says what to do), or an argument of another type.

    Example:
        >>> from sbp_keras import Readout
        >>> inputs = keras.Input((4, 8))
        >>> hidden = keras.layers.Dense(3, name="hidden")(inputs)
        >>> net = keras.Model(inputs, Readout(2)(hidden))
        >>> model = ShortcutModel(net, taps=["hidden"], num_classes=2)
        >>> model.main is net and model.strip() is net
        True
    """

    train_function: Any

    def __init__(
        self,
        net: keras.Model,
        taps: Sequence[str],
        num_classes: int,
        combine: Literal["logits", "losses"] | None = None,
        *,
        branch: Branch = "linear",
        loss_spec: LossSpec | Mapping[str, Any] | None = None,
        schedule: Schedule | Mapping[str, Any] | None = None,
        coefficient: float = 1.0,
        time_axis: int | None = 1,
        channel_axis: int = -1,
        dtype: Any = None,
        **arguments: Any,
    ) -> None:
        loss = _loss_spec(combine, loss_spec)
        spec = ShortcutSpec(taps=cast("tuple[str, ...]", taps), combine=loss.combine)
        if loss.per_step and time_axis is None:
            raise ValueError("loss_spec must not be per_step where time_axis is None: there are no time steps")
        tapped = TapModel(net, spec, per_step=loss.per_step)
        validation.count("num_classes", num_classes)
        if tuple(net.output_shape)[1:] != (num_classes,):
            raise ValueError(f"net must give (batch, {num_classes}), num_classes logits; it gives {net.output_shape}")
        first = tapped.tensors[spec.taps[0]]._keras_history.operation
        # autocast off: the net takes its inputs as they are, as it does without us
        super().__init__(dtype=dtype or getattr(first, "dtype_policy", None), autocast=False, **arguments)
        self.spec = spec
        self.loss_spec = loss
        self.num_classes = num_classes
        self.time_axis = time_axis
        self.channel_axis = channel_axis
        self._tapped = tapped
        self.main = net
        self.branches = make_branches(
            branch,
            tapped.tensors,
            num_classes,
            self.dtype_policy,
            time_axis=time_axis,
            channel_axis=channel_axis,
            per_step=loss.per_step,
        )
        start = keras.initializers.Constant(validation.finite("coefficient", coefficient))
        self.coefficient = self._add_state("coefficient", "float32", start)
        self.step = self._add_state("step", "int", "zeros")
        self._schedule: Schedule | None = None
        self.schedule = schedule
        self.built = True

    @property
    def schedule(self) -> Schedule | None:
        """The coefficient as a function of the step; None leaves it where it is. A new one compiles the step anew."""
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Schedule | Mapping[str, Any] | None) -> None:
        if isinstance(schedule, Mapping):
            schedule = Schedule.from_dict(schedule)
        if schedule is not None:
            check_schedule(schedule)
            schedule(1)
        if schedule == self._schedule:
            return
        self._schedule = schedule
        if self.train_function is not None:
            # first let go of the old one: JAX finds the compiled step again by what is still alive
            self.train_function = None
            self.make_train_function()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the main logits; in training the composed ones, or all of them for ``combine="losses"``."""
        if not training:
            return self.main(inputs, training=training)
        main, blocks = self._tapped(inputs)
        if self._schedule is not None:
            self._advance(self._schedule, main)
        # training is said outright: on JAX this call is not inside one that Keras could take it from
        branches = tuple(
            ops.cast(branch(blocks[tap], training=True), main.dtype)
            for tap, branch in zip(self.spec.taps, self.branches, strict=True)
        )
        if self.spec.combine == "losses":
            return ShortcutOutput(main, branches)
        return sum_logits(main, branches, ops.cast(self.coefficient, main.dtype))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the compiled loss; of main and branches apart, or of every step, what ``loss_spec`` makes of it.

        Raises:
            ValueError: there is no compiled loss to compose.
        """
        if not isinstance(y_pred, ShortcutOutput):
            if not _has_time(y_pred):
                return super().compute_loss(x, y, y_pred, sample_weight, training)
            y_pred = ShortcutOutput(y_pred, ())
        if self._compile_loss is None:
            raise ValueError("compile() must be given a loss, the one that main and branches are held to; got None")
        composed = compose_loss(
            self.loss_spec,
            y_pred,
            self.coefficient,
            cross_entropy=lambda logits: self._compiled_loss(y, logits, sample_weight),
            log_softmax=ops.log_softmax,
            detach=ops.stop_gradient,
            xp=SimpleNamespace(mean=_mean, sum=ops.sum, exp=ops.exp),
        )
        return sum(map(ops.sum, self.losses), composed)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics; where main and branches are apart, with the main output."""
        main = y_pred.main if isinstance(y_pred, ShortcutOutput) else y_pred
        return super().compute_metrics(x, y, mean(main, (1,)) if _has_time(main) else main, sample_weight)

    def strip(self) -> keras.Model:
        """Return the model that went in, as it was."""
        return self.main

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, the main model's and the branches' within it."""
        config: dict[str, Any] = super().get_config()
        layers = dict(zip(self.spec.taps, self.branches, strict=True))
        return config | {
            "net": keras.saving.serialize_keras_object(self.main),
            "taps": list(self.spec.taps),
            "num_classes": self.num_classes,
            "branch": {tap: keras.saving.serialize_keras_object(layer) for tap, layer in layers.items()},
            "loss_spec": self.loss_spec.to_dict(),
            "schedule": None if self._schedule is None else self._schedule.to_dict(),
            "time_axis": self.time_axis,
            "channel_axis": self.channel_axis,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ShortcutModel:
        """Return the model that :meth:`get_config` describes, with new weights."""

        def restored(value: Any) -> Any:
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        branch = {tap: restored(layer) for tap, layer in config["branch"].items()}
        return cls(**(config | {"net": restored(config["net"]), "branch": branch}))

    def _add_state(self, name: str, dtype: str, initializer: Any) -> Any:
        # the replicas of a distribution strategy all assign the same value
        return self.add_weight(
            name=name,
            shape=(),
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    def _advance(self, schedule: Schedule, main: Any) -> None:
        """Go on to the next training step and set its coefficient."""
        # 0, but of the data: where they run out, TensorFlow would still run what does not depend on them
        nothing = ops.cast(ops.sum(main[:0]), self.step.dtype)
        step = self.step + 1 + nothing
        self.step.assign(step)
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        window = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        last = -(-step // window) * window
        self.coefficient.assign(ops.cast(schedule(last), self.coefficient.dtype))

    def _compiled_loss(self, y: Any, logits: Any, sample_weight: Any) -> Any:
        """Return the compiled loss; of logits with an axis of time the mean over the steps."""
        if not _has_time(logits):
            return self._compile_loss(y, logits, sample_weight)
        steps = ops.unstack(logits, axis=1)
        return sum(self._compile_loss(y, step, sample_weight) for step in steps) / len(steps)


class _Mean(keras.losses.Loss):
    """The mean of what it is given; as a Keras loss, so that the replicas of a strategy share it as they do others."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return ``y_pred``."""
        return y_pred


def _mean(values: Any) -> Any:
    return _Mean(name="mean")(values, values)


def _has_time(logits: Any) -> bool:
    return len(logits.shape) == 3


def _loss_spec(combine: str | None, spec: LossSpec | Mapping[str, Any] | None) -> LossSpec:
    if isinstance(spec, Mapping):
        spec = LossSpec.from_dict(spec)
    if spec is None:
        return LossSpec(combine=cast(Any, "logits" if combine is None else combine))
    if not isinstance(spec, LossSpec):
        raise TypeError(f"loss_spec must be a LossSpec, got {spec!r} of type {type(spec).__name__}")
    if combine not in (None, spec.combine):
        raise ValueError(f"combine must be left out or agree with loss_spec, got {combine!r} and {spec.combine!r}")
    return spec


def check_schedule(schedule: Any) -> None:
    """Raise unless ``schedule`` is a Schedule.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be a Schedule, got {schedule!r} of type {type(schedule).__name__}")
