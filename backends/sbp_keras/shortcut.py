"""Shortcut back-propagation around a functional model, for ``compile`` and ``fit``."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import keras
from keras import ops

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, compose_loss, sum_logits
from sbp_core.selection import of_each
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_core.taps import Channels, TapLayout
from sbp_keras import numerics, private
from sbp_keras.branches import Branch, make_branches
from sbp_keras.losses import StepLoss, classes_of
from sbp_keras.readout import mean_over_time, renamed
from sbp_keras.taps import TapModel, time_axis_of


@keras.saving.register_keras_serializable(package="sbp")
class ShortcutModel(keras.Model):
    """A functional model with a branch from each tapped block to the output (Guo et al. 2024, Eq. 6-10).

    In training the model gives ``b_n(x) + lambda * sum_l b_l(x)``, with ``lambda`` the weight ``coefficient``;
    otherwise it gives ``b_n(x)``, and the branches do not run. So ``fit`` reports the composed loss and the metrics of
    the sum, while ``val_*``, ``evaluate`` and ``predict`` are the main model's alone.

    With ``combine="losses"`` training gives ``ShortcutOutput(main, branches)``, and ``fit`` minimises
    ``L(main) + lambda * sum_l L(branch_l)`` with the compiled loss as L; its metrics are then the main model's. A
    ``loss_spec`` adds supervision of every time step and distillation of the branches, with the compiled loss as the
    cross-entropy of :func:`sbp_core.composition.compose_loss`; weights of samples and classes are the compiled loss's,
    and label smoothing's. Where every step is supervised, weights ``(batch, time)`` are those of each step, and steps
    that Keras's mask leaves out do not count.

    The coefficient moves by itself where the model has a ``schedule``: the k-th call in training, counted by the
    weight ``step``, uses ``schedule(k)``. That is computed inside the compiled step, so it holds in ``fit``,
    ``train_on_batch``, a loop of your own, and with several steps per execution. :class:`~sbp_keras.ShortcutCallback`
    sets a schedule that counts its steps from ``fit``. Without a schedule set ``model.coefficient.assign(value)``, in a
    callback too, on every backend; ask for ``model.coefficient`` anew each time.
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
        time_axis: where time is in the tapped outputs: 1, ``(batch, time, ..., channels)``; None for a net without
            time; "merged", ``(time * batch, ..., channels)``, time outermost, with ``time_steps``. "stated" takes 1
            where neurons of this package are in the net; any other net needs the argument. For time elsewhere give
            ``branch`` layers of your own, :class:`~sbp_keras.Readout` of that axis for one.
        channels: of all taps, or a mapping from each to its own: "last"; "first", before the axes of space; or an axis.
        time_steps: how many steps are merged.
        dtype: dtype or dtype policy of the model and its branches; the first tapped layer's unless given. Under
            "mixed_float16" ``compile`` scales the loss.
        **arguments: ``name`` and ``trainable``, as in every Keras model.

    Raises:
        ValueError: a tap that does not exist (those that do are listed) or is called more than once, an unknown
            composition, no time axis, axes that a tapped output has not, a net whose output is not ``(batch,
            num_classes)``, a branch that does not fit, or a schedule without ``total_steps``.
        TypeError: a net that cannot be tapped (the message says what to do), a ShortcutModel, or an argument of another
            type.

    Example:
        >>> from sbp_keras import Readout
        >>> inputs = keras.Input((4, 8))
        >>> hidden = keras.layers.Dense(3, name="hidden")(inputs)
        >>> net = keras.Model(inputs, Readout(2)(hidden))
        >>> model = ShortcutModel(net, taps=["hidden"], num_classes=2, time_axis=1)
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
        time_axis: Literal[1, "merged", "stated"] | None = "stated",
        channels: Channels | Mapping[str, Channels] = "last",
        time_steps: int | None = None,
        dtype: Any = None,
        **arguments: Any,
    ) -> None:
        if isinstance(net, ShortcutModel):
            raise TypeError("net must not be a ShortcutModel: it has its branches; wrap net.main with all the taps")
        loss = _loss_spec(combine, loss_spec)
        spec = ShortcutSpec(taps=cast("tuple[str, ...]", taps), combine=loss.combine)
        tapped = TapModel(net, spec, per_step=loss.timed)
        validation.count("num_classes", num_classes)
        if tuple(net.output_shape)[1:] != (num_classes,):
            raise ValueError(f"net must give (batch, {num_classes}), num_classes logits; it gives {net.output_shape}")
        place = time_axis_of(net, tapped.tensors, time_axis)
        if loss.timed and place is None:
            asked = "per_step" if loss.per_step else "of step_distillation"
            raise ValueError(f"loss_spec must not be {asked} where time_axis is None: there are no time steps")
        # autocast off: the net takes its inputs as they are, as it does without us
        super().__init__(dtype=dtype or tapped.dtype_policy, autocast=False, **arguments)
        self.spec = spec
        self.loss_spec = loss
        self.num_classes = num_classes
        self.time_axis = place
        self.channels = channels
        self.time_steps = time_steps
        self.supports_masking = True
        self._tapped = tapped
        self.main = net
        where = of_each("channels", channels, spec.taps, "last")
        self.branches = make_branches(
            branch,
            tapped.tensors,
            num_classes,
            self.dtype_policy,
            layouts={tap: TapLayout(time_axis=place, channels=where[tap], time_steps=time_steps) for tap in spec.taps},
            per_step=loss.timed,
        )
        # a float32 coefficient would round a float64 net's logits
        precision = "float64" if net.outputs[0].dtype == "float64" else "float32"
        start = numerics.Constant(validation.finite("coefficient", coefficient))
        self._coefficient = self._add_state("coefficient", precision, start)
        self._step = self._add_state("step", "int", "zeros")
        self._schedule: Schedule | None = None
        self.schedule = schedule
        self.built = True

    @property
    def coefficient(self) -> Any:
        """The weight of the branches, a variable; in ``fit`` too it has its present value, and may be assigned."""
        return self._present(self._coefficient)

    @property
    def step(self) -> Any:
        """The number of steps that were trained with a schedule, a variable."""
        return self._present(self._step)

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

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Return the main logits; in training the composed ones, or all of them for ``combine="losses"``."""
        options = {} if mask is None else {"mask": mask}
        if not training:
            return self.main(inputs, training=training, **options)
        main, blocks = self._tapped(inputs, **options)
        if self._schedule is not None:
            self._advance(self._schedule, main)
        # training is said outright: on JAX this call is not inside one that Keras could take it from
        branches = tuple(
            ops.cast(branch(blocks[tap], training=True), main.dtype)
            for tap, branch in zip(self.spec.taps, self.branches, strict=True)
        )
        if self.spec.combine == "losses":
            return ShortcutOutput(main, branches)
        summed = sum_logits(main, branches, ops.cast(self._coefficient, main.dtype))
        if _has_time(main):
            private.set_mask(summed, private.mask_of(main))
        return summed

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Return None: logits have no mask of the inputs'."""
        return

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the compiled loss; of main and branches apart, or of every step, what ``loss_spec`` makes of it.

        Raises:
            ValueError: there is no compiled loss to compose, sample weights of another shape, labels that are no
                classes where a teacher is one that is right, or a mask and ``step_distillation``.
        """
        if not (_has_time(_main(y_pred)) and self.loss_spec.per_step):
            sample_weight = self._of_samples(sample_weight)
        if not isinstance(y_pred, ShortcutOutput):
            smoothed = training and self.loss_spec.label_smoothing > 0.0
            if not (smoothed or _has_time(y_pred)):
                return super().compute_loss(x, y, y_pred, sample_weight, training)
            y_pred = ShortcutOutput(y_pred, ())
        compiled = private.compiled_loss(self)
        if compiled is None:
            raise ValueError("compile() must be given a loss, the one that main and branches are held to; got None")
        mask = private.mask_of(y_pred.main) if _has_time(y_pred.main) else None
        if mask is not None and self.loss_spec.step_distillation:
            raise ValueError(
                f"step_distillation must be 0 where a mask leaves steps out, got {self.loss_spec.step_distillation:g}: "
                "the steps of a batch are compared with each other"
            )
        each = StepLoss(compiled, self.loss, y, sample_weight, mask, self.loss_spec.label_smoothing)
        composed = compose_loss(
            self.loss_spec.replace(label_smoothing=0.0),  # it is in the loss, where samples have their weights
            y_pred,
            ops.cast(self._coefficient, each.dtype(y_pred.main)),
            labels=classes_of(y) if self.loss_spec.needs_classes else None,
            cross_entropy=each,
            log_softmax=ops.log_softmax,
            detach=ops.stop_gradient,
            xp=each.namespace,
            time_axis=1,
        )
        return sum((ops.cast(ops.sum(loss), composed.dtype) for loss in self.losses), composed)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics; where main and branches are apart, with the main output.

        Weights of each step weigh a sample by their mean.
        """
        main = _main(y_pred)
        if _has_time(main):
            main = mean_over_time(main, private.mask_of(main))
        return super().compute_metrics(x, y, main, self._of_samples(sample_weight))

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
            "channels": self.channels,
            "time_steps": self.time_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ShortcutModel:
        """Return the model that :meth:`get_config` describes, with new weights."""

        def restored(value: Any) -> Any:
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        branch = {tap: restored(layer) for tap, layer in config["branch"].items()}
        return cls(**(renamed(config) | {"net": restored(config["net"]), "branch": branch}))

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

    def _of_samples(self, sample_weight: Any) -> Any:
        """Return one weight for each sample, of weights of each step their mean."""

        def of_sample(weights: Any) -> Any:
            if weights is None or len(weights.shape) < 2 or weights.shape[1] == 1:
                return weights
            if not self.loss_spec.per_step:
                raise ValueError(
                    f"sample_weight must have shape (batch,) unless loss_spec is per_step, got {tuple(weights.shape)}"
                )
            return numerics.mean(ops.convert_to_tensor(weights), (1,))

        return keras.tree.map_structure(of_sample, sample_weight)

    def _present(self, variable: Any) -> Any:
        # within fit on JAX the values are elsewhere; a variable that was asked for is read again before the next step
        if not private.is_stateless() and hasattr(self, "jax_state_sync"):
            self.jax_state_sync()
        return variable

    def _advance(self, schedule: Schedule, main: Any) -> None:
        """Go on to the next training step and set its coefficient."""
        # 0, but of the data: where they run out, TensorFlow would still run what does not depend on them
        nothing = ops.cast(ops.sum(main[:0]), self._step.dtype)
        step = self._step + 1 + nothing
        self._step.assign(step)
        last = -(-step // self.window) * self.window
        if self._coefficient.dtype == "float64":
            last = ops.cast(last, "float64")
        self._coefficient.assign(ops.cast(schedule(last), self._coefficient.dtype))

    @property
    def window(self) -> int:
        """Steps whose gradients the compiled optimizer accumulates; all of them use the coefficient of the last."""
        # in a loop of one's own nothing need be compiled
        optimizer = getattr(self, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        return getattr(optimizer, "gradient_accumulation_steps", None) or 1


def _main(output: Any) -> Any:
    return output.main if isinstance(output, ShortcutOutput) else output


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
