"""A run as one frozen description: what is trained, on what, how. It reads and writes TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, Self, get_args

import tomli_w

import sbp_lab.events.augment  # noqa: F401  (recipes name its augmentations)
from sbp_core import LIFSpec, LossSpec, NetworkSpec, Schedule, ShortcutSpec, validation
from sbp_core.signal import at_identity
from sbp_core.specs.base import Spec
from sbp_core.specs.branches import BranchName
from sbp_core.specs.networks.blocks import Blocks
from sbp_core.specs.networks.norm import Norm
from sbp_lab import networks, trainers
from sbp_lab.augment import Augmentation
from sbp_lab.events import Frames
from sbp_lab.methods import Method, method_of
from sbp_lab.names import known
from sbp_lab.optimizers import AdamW, Decay, LearningRate, Optimizer, milestones_of

SCHEMA = "sbp.recipe/1"

#: What the network computes in; weights and the optimiser stay in float32.
Precision = Literal["float32", "bfloat16", "float16"]

#: Where weights start: as drawn; near the identity; there, and scaled on a batch until every layer fires.
Start = Literal["default", "identity", "calibrated"]

#: What stands in TOML for None where leaving the field out would say something else: a table of nothing.
_NONE: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Recipe(Spec):
    """Everything that a run's weights depend on. Where the data lie is no part of it.

    Attributes:
        backend: name of a trainer: torch, tf, jax or keras.
        data: name of a data set.
        net: a network of the zoo, or one of your own, "module:function".
        width: channels of the network's first stage, all others in proportion; None: as published.
        time_steps: how often an image is shown, or frames of an event recording.
        neuron: every neuron of the network; None: the network's own.
        norm: every normalisation, "batch", "tdbn" or "tebn"; None: the network's own.
        blocks: of a residual network, "standard", "sew", "ms" or "max"; None: the network's own.
        start: of the weights: "default", as drawn; "identity", at which blocks pass spikes and gradients on, with the
            neurons' threshold and surrogate set for it (docs/doctor.md); "calibrated", that, and every layer scaled on
            the first batch into a healthy range of rates.
        method: a training method, or several at once, "losses+sew". What it states holds where the field here is as in
            ``Recipe()``; what it states of neuron and loss always.
        coefficient: schedule of the branches' weight; None: the method's.
        taps: parts that get a branch; None: the network's own choice.
        branch: what a branch is: "linear", the paper's, or "convolutional".
        loss: how branches join the main output, and what the logits are held to.
        optimizer: AdamW or SGD.
        learning_rate: the highest, after the warm-up.
        warm_up: epochs in which the learning rate rises from 0; fractions are allowed.
        decay: how it falls afterwards: "cosine" to 0, "constant", or "step", to a tenth at each milestone.
        milestones: for "step", shares of the training after the warm-up.
        epochs: passes over the training samples.
        batch_size: samples of an optimiser's step; what is left over at the end of an epoch is dropped.
        augment: what happens to a training sample, in this order.
        frames: how an event recording is cut into frames; None for images.
        size: height and width to resize images to; None: as they are.
        precision: what the network computes in.
        compile: torch.compile; TensorFlow and JAX always compile.
        clip_norm: largest L2 norm of the gradient of all weights together; None: any.
        accumulate: parts that a batch is computed in, one after the other, for less memory.
        ema: decay per step of the running mean of the weights that is tested and saved beside them; None: no mean.
        seed: of the first weights, the order of the batches, augmentation and dropout.

    Raises:
        ValueError: a field out of range, or fields that contradict each other; the message names the field.
        TypeError: a field of the wrong type.

    Example:
        >>> recipe = Recipe(data="digits", net="resnet18", width=8, optimizer=AdamW(weight_decay=0.0))
        >>> Recipe.from_toml(recipe.to_toml()) == recipe
        True
        >>> Recipe.from_toml('optimizer = "sgd"').optimizer.kind
        'sgd'
    """

    kind: ClassVar[str] = "recipe"
    backend: str = "torch"
    data: str = "digits"
    net: str = "resnet18"
    width: int | None = None
    time_steps: int = 4
    neuron: LIFSpec | None = None
    norm: Norm | None = None
    blocks: Blocks | None = None
    start: Start = "default"
    method: str = "evolutionary"
    coefficient: Schedule | None = None
    taps: tuple[str, ...] | None = None
    branch: BranchName = "linear"
    loss: LossSpec = LossSpec(combine="logits")
    optimizer: Optimizer = AdamW()
    learning_rate: float = 0.01
    warm_up: float = 0.0
    decay: Decay = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    epochs: int = 300
    batch_size: int = 128
    augment: tuple[Augmentation, ...] = ()
    frames: Frames | None = None
    size: tuple[int, int] | None = None
    precision: Precision = "float32"
    compile: bool = False
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("backend", "data", "net", "method"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a name, got {getattr(self, name)!r}")
        known("backend", self.backend, trainers.TRAINERS)
        method = method_of(self.method)
        if not self.data:
            raise ValueError("data must name a data set, got ''")
        self._check_net()
        self._check_method(method)
        for name, family in SPECS.items():
            if getattr(self, name) is not None or name in ("loss", "optimizer"):
                _check_spec(name, getattr(self, name), family)
        if self.coefficient is not None and not method.branches:
            raise ValueError(f"coefficient must be left out with method={self.method!r}, which has no branches")
        if self.taps is not None:
            ShortcutSpec(taps=self.taps)
            self._set("taps", tuple(self.taps))
        if not isinstance(self.augment, tuple | list):
            raise TypeError(f"augment must be a tuple of augmentations, got {self.augment!r}")
        self._set("augment", tuple(self.augment))
        for index, each in enumerate(self.augment):
            _check_spec(f"augment[{index}]", each, Augmentation)
        self._check_numbers()

    def _check_net(self) -> None:
        module, colon, function = self.net.partition(":")
        if not colon:
            known("net", self.net, networks.NETWORKS)
        elif not (all(part.isidentifier() for part in module.split(".")) and function.isidentifier()):
            raise ValueError(f"net must be a network of the zoo or module:function, got {self.net!r}")
        elif self.width is not None:
            raise ValueError(f"width must be left out with a network of your own, net={self.net!r}; got {self.width!r}")

    def _check_method(self, method: Method) -> None:
        for name, allowed in (("norm", Norm), ("blocks", Blocks)):
            if getattr(self, name) is not None:
                validation.choice(name, getattr(self, name), get_args(allowed))
                if self.own:
                    raise ValueError(f"{name} must be left out with a network of your own, net={self.net!r}")
        changed = sorted({key.partition(".")[0] for key in method.states} & {"norm", "blocks", "neuron"})
        if self.own and changed:
            raise ValueError(
                f"method={self.method!r} states the network's {changed[0]}, which a network of your own, "
                f"net={self.net!r}, has to do by itself"
            )

    def _check_numbers(self) -> None:
        for name in ("time_steps", "epochs", "batch_size", "accumulate"):
            self._set(name, validation.count(name, getattr(self, name)))
        self._set("seed", validation.count("seed", self.seed, 0))
        if self.width is not None:
            self._set("width", validation.count("width", self.width))
        self._set("learning_rate", validation.positive("learning_rate", self.learning_rate))
        self._set("warm_up", validation.within("warm_up", self.warm_up, 0.0, float(self.epochs)))
        if self.warm_up == self.epochs:
            raise ValueError(f"warm_up must be less than epochs={self.epochs}, got {self.warm_up:g}")
        validation.choice("start", self.start, get_args(Start))
        validation.choice("branch", self.branch, get_args(BranchName))
        validation.choice("decay", self.decay, get_args(Decay))
        self._set("milestones", milestones_of(self.milestones))
        if self.size is not None:
            self._set("size", validation.counts("size", self.size))
            if len(self.size) != 2:
                raise ValueError(f"size must be height and width, got {self.size!r}")
            if self.frames is not None:
                raise ValueError(f"size must be left out with frames, which have a size of their own; got {self.size}")
        if self.frames is not None and self.frames.steps != self.time_steps:
            raise ValueError(f"time_steps must be frames.steps={self.frames.steps}, got {self.time_steps}")
        validation.choice("precision", self.precision, get_args(Precision))
        validation.flag("compile", self.compile)
        if self.clip_norm is not None:
            self._set("clip_norm", validation.positive("clip_norm", self.clip_norm))
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size={self.batch_size}, got {self.accumulate}")
        if self.ema is not None:
            self._set("ema", validation.within("ema", self.ema, 0.0, 1.0))
            if self.ema == 1.0:
                raise ValueError("ema must be less than 1, got 1.0: the mean would stay at the first weights")

    @property
    def own(self) -> bool:
        """Whether the network is the user's, "module:function"."""
        return ":" in self.net

    @property
    def schedule(self) -> Schedule | None:
        """The branches' coefficient over the steps, not yet resolved; None for a network without branches."""
        schedule: Schedule | None = self.applied.coefficient
        return schedule

    @property
    def applied(self) -> Self:
        """The recipe with all that its method states among its own fields.

        Example:
            >>> Recipe(method="tet+sew").applied.blocks, Recipe(method="tet+sew").applied.loss.per_step
            ('sew', True)
        """
        states = method_of(self.method).states
        kept = {each.name for each in fields(self) if getattr(self, each.name) != each.default}
        return self._stated({name: value for name, value in states.items() if name not in kept})

    def with_method(self, method: str | Method) -> Self:
        """Return the recipe of another method; a coefficient of its own is kept where the method has branches.

        Args:
            method: a name, or a method of your own: what that states then stands in the recipe's fields.

        Raises:
            ValueError: an unknown name, or a method that does not go with the recipe.

        Example:
            >>> Recipe(method="evolutionary").with_method("losses+sew").schedule.initial
            1.0
        """
        if isinstance(method, Method):
            base = self.with_method("evolutionary" if method.branches else "vanilla")
            return base._stated(method.states)
        branches = method_of(method).branches
        return self.replace(method=method, coefficient=self.coefficient if branches else None)

    def _stated(self, states: Mapping[str, Any]) -> Self:
        """Return the recipe with fields, and fields of fields, set."""
        changes: dict[str, Any] = {name: value for name, value in states.items() if "." not in name}
        parts: dict[str, dict[str, Any]] = {}
        for name, value in states.items():
            field, _, part = name.partition(".")
            if part:
                parts.setdefault(field, {})[part] = value
        for field, values in parts.items():
            held = changes.get(field, getattr(self, field))
            changes[field] = (networks.neuron_of(self.net) if held is None else held).replace(**values)
        return self.replace(**changes) if changes else self

    def learning_rates(self, *, total_steps: int, steps_per_epoch: int) -> LearningRate:
        """Return the learning rate of each step, counted from 0.

        Example:
            >>> Recipe(learning_rate=0.1, warm_up=0.5, epochs=2).learning_rates(total_steps=8, steps_per_epoch=4)(0)
            0.05
        """
        return LearningRate(
            initial=self.learning_rate,
            total_steps=total_steps,
            warm_up_steps=min(round(self.warm_up * steps_per_epoch), total_steps - 1),
            decay=self.decay,
            milestones=self.milestones,
        )

    def network(self, *, size: tuple[int, int], num_classes: int, in_channels: int) -> NetworkSpec:
        """Return the spec of the network, of the zoo, for such data.

        Raises:
            ValueError: the network is the user's own, or does not fit such data, or has no such tap.

        Example:
            >>> Recipe(net="resnet18", width=8).network(size=(8, 8), num_classes=10, in_channels=1).default_taps
            ('layer1', 'layer2', 'layer3')
        """
        if self.own:
            raise ValueError(f"net={self.net!r} is a network of your own: it has no spec")
        applied = self.applied
        given = {name: getattr(applied, name) for name in ("neuron", "norm") if getattr(applied, name) is not None}
        found = networks.build(
            self.net,
            blocks=applied.blocks,
            width=self.width,
            size=(self.frames.size if self.frames is not None else self.size) or size,
            num_classes=num_classes,
            in_channels=in_channels,
            time_steps=self.time_steps,
            **given,
        )
        if applied.start != "default":
            found = at_identity(found)
        if applied.taps is not None:
            ShortcutSpec(taps=applied.taps).check_taps(found.tap_channels)
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the recipe that ``values`` describes.

        A spec in it may be its name alone, ``optimizer: "sgd"``, or its fields, with ``kind`` where there is a choice.

        Raises:
            ValueError: an unknown field, or one out of range; the message names it.
            TypeError: a field of the wrong type.
        """
        given = dict(values)
        if given.pop("kind", cls.kind) != cls.kind:
            raise ValueError(f"kind must be {cls.kind!r}, got {values['kind']!r}")
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                near = get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"a recipe has {', '.join(names)}"
                raise ValueError(f"unknown field {name!r}; {hint}")
        decoded: dict[str, Any] = {name: _read(name, value) for name, value in given.items()}
        return cls(**decoded)

    def to_toml(self) -> str:
        """Return the recipe as TOML, every field of it, for :meth:`from_toml`."""
        return tomli_w.dumps({"schema": SCHEMA} | _table(self))

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Return the recipe that TOML describes; what it leaves out is as in ``Recipe()``.

        Raises:
            ValueError: not TOML (the message has the line), an unknown field, or one out of range.
            TypeError: a field of the wrong type.

        Example:
            >>> Recipe.from_toml("epoch = 3")
            Traceback (most recent call last):
            ...
            ValueError: unknown field 'epoch'; did you mean 'epochs'?
        """
        values = tomllib.loads(text)
        schema = values.pop("schema", SCHEMA)
        if schema != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA!r}, which this version of sbp reads; got {schema!r}")
        return cls.from_dict(values)


#: What the fields that hold a spec may hold.
SPECS: dict[str, type[Spec]] = {
    "neuron": LIFSpec,
    "coefficient": Schedule,
    "loss": LossSpec,
    "optimizer": Optimizer,
    "frames": Frames,
}


def _check_spec(name: str, value: object, family: type[Spec]) -> None:
    if not isinstance(value, family):
        raise TypeError(f"{name} must be a {family.__name__}, got {value!r} of type {type(value).__name__}")


def _table(spec: Spec) -> dict[str, Any]:
    found = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if value is not None or field.default is not None:
            found[field.name] = _plain(value)
    return found


def _plain(value: object) -> object:
    if value is None:
        return _NONE
    if isinstance(value, Spec):
        return {"kind": value.kind} | _table(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _read(name: str, value: object) -> object:
    if name == "augment" and isinstance(value, tuple | list):
        return tuple(_read_spec(f"augment[{index}]", each, Augmentation) for index, each in enumerate(value))
    return _read_spec(name, value, SPECS.get(name, Spec), named=name in SPECS)


def _read_spec(name: str, value: object, family: type[Spec], *, named: bool = True) -> object:
    """Return a spec for its fields, or, where there is but one family, for its name; other values as they are."""
    if isinstance(value, list):
        return tuple(_read_spec(f"{name}[{index}]", each, Spec, named=False) for index, each in enumerate(value))
    if isinstance(value, str) and named:
        return family.families()[known(name, value, family.families())]()
    if not isinstance(value, Mapping):
        return value
    if value == _NONE:
        return None
    try:
        return family.from_dict({key: _read_spec(key, each, Spec, named=False) for key, each in value.items()})
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from None
