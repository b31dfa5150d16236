"""Network and training levels: the same weights and images through a spiking ResNet with branches in every framework.

The oracle is :mod:`sbp_core.reference.network`: NumPy in float64, its adjoint derived by hand. In float64 a backend is
held to it within 1e-11 (measured between all of ours: 5e-15). In float32 a spike can flip at a tie, and a flipped spike
changes what comes after it by no small amount; so each case draws weights and images until the reference's potentials
stay a guard band away from every threshold (and every edge of a rectangle), in every neuron at every step. Layers take
spikes, which are exact, so that rounding does not build up from block to block. No spike may flip then, which is
checked block by block and shown as "spikes differing", and gradients agree to 3e-5 of the largest in their array
(measured: 3e-6).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.compare import close, close_number, equal, native_dtype
from sbp_conformance.levels.base import Case, Tolerance
from sbp_conformance.precision import FULL, representable
from sbp_conformance.results import Finding, Kind
from sbp_core import ArcTan, Evolutionary, LIFSpec, LossSpec, ResNetSpec, Schedule, Sigmoid, network_spec, resnet18_spec
from sbp_core.backend import (
    Backend,
    Batch,
    Mode,
    MomentumSGD,
    NetworkResult,
    ShortcutNetwork,
    TrainingResult,
    TrainsNetworks,
)
from sbp_core.reference import network as reference
from sbp_core.reference.networks import initial_weights
from sbp_core.specs.networks import NARROW

Float64 = NDArray[np.float64]

#: The reference stays this far from every jump; float32 potentials are off by 2.3e-6 at most (measured with PyTorch).
GUARD = 5e-5
#: And this far in cases of float64 alone.
DOUBLE_GUARD = 1e-9
#: What gradients are compared relative to at least, of the largest in the network.
SMALLEST_GRADIENT = 1e-4
_ATTEMPTS = 100
_TOLERANCES = {
    "float64": Tolerance(value=1e-11, gradient=1e-11),
    "float32": Tolerance(value=2e-6, gradient=3e-5),
}


_SMALL: dict[str, Any] = {"num_classes": 4, "in_channels": 2, "time_steps": 2}
# PyTorch 2.13 frees memory twice in the backward of a strided 1x1 convolution of fewer than 8 channels, channels last
_SHALLOW: dict[str, Any] = _SMALL | {"depths": (1, 1), "widths": (8, 10)}


class NetworkInputs(NamedTuple):
    """What goes in: weights by name, and batches, all of them float32 numbers."""

    weights: dict[str, Float64]
    batches: list[Batch]


@dataclass(frozen=True, kw_only=True)
class _NetworkCase(Case):
    """What both levels share.

    Attributes:
        network: the network, its branches and its loss.
        image: height and width of the images; a number where they are alike.
        batch: images in a batch.
        frames: whether they are event frames, and not still images.
        soft: whether labels are shares of the classes.
        shift: added to biases, so that neurons which scale their input down fire too.
    """

    needs: ClassVar[tuple[str, ...]] = ("network", "training")
    network: ShortcutNetwork
    image: int | tuple[int, int] = 8
    batch: int = 3
    frames: bool = False
    soft: bool = False
    shift: float = 0.0
    dtypes: tuple[str, ...] = FULL
    tolerances: Mapping[str, Tolerance] = dataclasses.field(default_factory=lambda: _TOLERANCES)

    @cached_property
    def drawn(self) -> NetworkInputs:
        """The first of a sequence of draws that keeps off every jump."""
        for attempt in range(_ATTEMPTS):
            given = self._attempt(np.random.default_rng([self.seed, attempt]))
            if self._margin(given) >= (GUARD if "float32" in self.dtypes else DOUBLE_GUARD):
                return given
        raise RuntimeError(f"no draw of case {self.name!r} keeps away from every jump; give it another seed")

    def _attempt(self, random: np.random.Generator) -> NetworkInputs:
        """Draw weights in which nothing is trivial: no scale of 1, no bias, mean or decay that others share."""
        weights: dict[str, Float64] = {}
        for name, start in self._start(int(random.integers(2**31))).items():
            drawn: Float64 = np.asarray(start, np.float64)
            if name.endswith(".running_var") or (drawn.ndim == 1 and name.endswith(".weight")):
                drawn = random.uniform(0.6, 1.4, drawn.shape)
            elif ".running_mean" in name or name.endswith(("bias", ".decay_logit", "_potential")):
                drawn = drawn + random.normal(self.shift if name.endswith("bias") else 0.0, 0.3, drawn.shape)
            elif name.endswith(".fc.weight"):
                # so that the neurons of hidden layers fire
                drawn = 6.0 * drawn
            weights[name] = np.asarray(representable(drawn, "float32"))
        return NetworkInputs(weights, [self._batch(random) for _ in range(self._steps)])

    def _batch(self, random: np.random.Generator) -> Batch:
        spec = self.network.spec
        size = (self.image, self.image) if isinstance(self.image, int) else self.image
        lead = (spec.time_steps, self.batch) if self.frames else (self.batch,)
        images = random.normal(size=(*lead, spec.in_channels, *size))
        labels = random.integers(0, spec.num_classes, self.batch)
        if self.soft:
            # multiples of 1 / 16, as they are in float32 too
            labels = 0.75 * np.eye(spec.num_classes)[labels] + 0.0625 * random.integers(0, 3, (self.batch, 1))
        return Batch(representable(images, "float32"), labels)

    def _start(self, seed: int) -> dict[str, Any]:
        return dict(initial_weights(self.network.spec, seed, self.network.taps, self.network.branch))

    @property
    @abstractmethod
    def _steps(self) -> int: ...

    @abstractmethod
    def _margin(self, given: NetworkInputs) -> float: ...


@dataclass(frozen=True, kw_only=True)
class NetworkCase(_NetworkCase):
    """One step of training: logits, loss, the gradient of every parameter, running statistics, evaluation.

    Attributes:
        coefficient: lambda; a number that float32 holds, for a backend may hold it in that.
    """

    level: ClassVar[str] = "network"
    coefficient: float = 0.75

    @cached_property
    def expected(self) -> NetworkResult:
        """What the reference gives."""
        weights, (batch,) = self.drawn
        return reference.network_step(self.network, weights, batch, self.coefficient)

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the spikes of each block, then everything that came of them."""
        weights, (batch,) = self.drawn
        if not isinstance(backend, TrainsNetworks):
            return [_not_offered()]
        got = backend.network(self.network, weights, batch, self.coefficient, dtype=dtype, mode=mode)
        if not isinstance(got, NetworkResult):
            return [_wrong_type(NetworkResult, got)]
        want, allowed = self.expected, self.tolerances[dtype]
        findings = [native_dtype(got.dtype, dtype)]
        findings += _by_name("spikes of {}", "spikes", got.spikes, want.spikes, dtype, allowed.value)
        names = ("logits",) if len(want.logits) == 1 else ("main", *self.network.taps)
        logits = got.logits if isinstance(got.logits, tuple) and len(got.logits) == len(names) else ()
        findings += _by_name(
            "logits of {}",
            "value",
            dict(zip(names, logits, strict=False)),
            dict(zip(names, want.logits, strict=True)),
            dtype,
            allowed.value,
        )
        findings.append(close_number("loss", "value", got.value, want.value, dtype, allowed.value, scale=1.0))
        # of a bias before a batch norm rounding is all there is
        largest = max(float(np.abs(gradient).max()) for gradient in want.gradients.values())
        findings += _by_name(
            "gradient of {}",
            "gradient",
            got.gradients,
            want.gradients,
            dtype,
            allowed.gradient,
            scale=largest * SMALLEST_GRADIENT,
        )
        findings += _by_name("{} after the step", "state", got.statistics, want.statistics, dtype, allowed.value)
        findings.append(close("logits in evaluation", "value", got.evaluated, want.evaluated, dtype, allowed.value))
        return findings

    @property
    def _steps(self) -> int:
        return 1

    def _margin(self, given: NetworkInputs) -> float:
        oracle = reference.ReferenceNetwork(self.network, given.weights)
        oracle.forward(given.batches[0].images, training=True)
        training = oracle.margin
        # evaluation after the step has potentials of its own
        oracle.forward(given.batches[0].images, training=False)
        return min(training, oracle.margin)


@dataclass(frozen=True, kw_only=True)
class TrainingCase(_NetworkCase):
    """Steps of training: the loss of each, and every weight and running statistic at the end.

    Attributes:
        schedule: of the coefficient; its values are dyadic, for a backend may hold them in float32.
        optimizer: what moves the weights.
        steps: how many.
    """

    level: ClassVar[str] = "training"
    schedule: Schedule
    optimizer: MomentumSGD = MomentumSGD(learning_rate=0.125, momentum=0.5)
    steps: int = 5

    @cached_property
    def expected(self) -> TrainingResult:
        """What the reference gives."""
        weights, batches = self.drawn
        return reference.train(self.network, weights, batches, self.schedule, self.optimizer)[0]

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the losses and the weights at the end."""
        weights, batches = self.drawn
        if not isinstance(backend, TrainsNetworks):
            return [_not_offered()]
        got = backend.training(self.network, weights, batches, self.schedule, self.optimizer, dtype=dtype, mode=mode)
        if not isinstance(got, TrainingResult):
            return [_wrong_type(TrainingResult, got)]
        want, allowed = self.expected, self.tolerances[dtype]
        if not isinstance(got.losses, tuple) or len(got.losses) != self.steps:
            problem = f"wrong shape: expected a tuple of {self.steps}, got {got.losses!r:.200}"
            return [Finding(quantity="losses", kind="contract", problem=problem)]
        findings = [native_dtype(got.dtype, dtype)]
        for step, (loss, expected) in enumerate(zip(got.losses, want.losses, strict=True), start=1):
            quantity = f"loss of step {step}"
            findings.append(close_number(quantity, "value", loss, expected, dtype, allowed.value, scale=1.0))
        return findings + _by_name("{} at the end", "state", got.weights, want.weights, dtype, allowed.value)

    @property
    def _steps(self) -> int:
        return self.steps

    def _margin(self, given: NetworkInputs) -> float:
        return reference.train(self.network, *given, self.schedule, self.optimizer)[1]


def _by_name(
    quantity: str,
    kind: Kind,
    got: object,
    want: Mapping[str, Float64],
    dtype: str,
    tolerance: float,
    *,
    scale: float = 0.0,
) -> list[Finding]:
    """Compare arrays by name; a name that is missing or unknown is a problem of its own."""
    if not isinstance(got, Mapping):
        problem = f"wrong type: expected a mapping from names to arrays, got {type(got).__name__}"
        return [Finding(quantity=quantity.format("each"), kind="contract", problem=problem)]
    missing, unknown = sorted(want.keys() - got.keys()), sorted(map(str, got.keys() - want.keys()))
    if missing or unknown:
        problem = f"wrong names: missing {missing}, unknown {unknown}"
        return [Finding(quantity=quantity.format("each"), kind="contract", problem=problem)]
    findings = []
    for name, expected in want.items():
        # a part may end in potentials
        if kind == "spikes" and np.array_equal(expected, np.round(expected)):
            findings.append(equal(quantity.format(name), got[name], expected, dtype))
        else:
            findings.append(close(quantity.format(name), kind, got[name], expected, dtype, tolerance, scale=scale))
    return findings


def _not_offered() -> Finding:
    return Finding(quantity="networks", kind="contract", problem="it does not offer them (TrainsNetworks)")


def _wrong_type(wanted: type, got: object) -> Finding:
    problem = f"wrong type: expected a {wanted.__name__}, got {type(got).__name__}"
    return Finding(quantity="result", kind="contract", problem=problem)


class _Given(NamedTuple):
    """A network, and the fields of its case."""

    network: ShortcutNetwork
    fields: dict[str, Any]


def _full_neuron(**fields: Any) -> LIFSpec:
    """Return a neuron none of whose fields is the default."""
    given: dict[str, Any] = {
        "decay": 0.7,
        "synaptic_decay": 0.3,
        "reset": "soft",
        "reset_timing": "next",
        "output_delay": 1,
        "detach_reset": True,
        "input_gain": 1.3,
        "threshold": 0.6,
        "rest": -0.1,
        "initial_potential": 0.25,
        "reset_value": 0.2,
        "inclusive": True,
        "surrogate": Sigmoid(height=0.8, width=0.7),
    }
    return LIFSpec(**(given | fields))


def _networks() -> dict[str, _Given]:
    # compilers and eager JAX take seconds for each network: few run in both dtypes
    double: dict[str, Any] = {"dtypes": ("float64",)}
    deep = resnet18_spec(widths=(8, 8, 9, 10), **_SMALL)
    pooled = ResNetSpec(**_SHALLOW, stem="imagenet", neuron=LIFSpec(reset="soft", surrogate=ArcTan()))
    learnt = ResNetSpec(
        **_SHALLOW, neuron=LIFSpec.complementary(learn_decay=True, learn_initial=True, surrogate=ArcTan())
    )
    current = LIFSpec(
        synaptic_decay=0.5, reset_timing="next", detach_reset=True, input_gain="complement", surrogate=ArcTan()
    )
    plain = ResNetSpec(**_SHALLOW, neuron=LIFSpec(surrogate=ArcTan()))
    small = ResNetSpec(**(_SMALL | {"depths": (1,), "widths": (5,)}), neuron=LIFSpec(surrogate=ArcTan()))
    hard = LIFSpec(
        decay=0.6, threshold=0.8, rest=0.1, reset_value=-0.2, initial_follows=True, surrogate=ArcTan(width=1.3)
    )
    attached = LossSpec(distillation=0.3, temperature=1.7, detach_teacher=False, label_smoothing=0.1)
    return {
        "resnet18": _Given(
            ShortcutNetwork(deep, deep.default_taps, LossSpec(combine="logits")), {"dtypes": ("float32",)}
        ),
        "imagenet-stem": _Given(
            ShortcutNetwork(pooled, ("stem", "layer1"), LossSpec()), double | {"image": (17, 13), "batch": 2}
        ),
        "learnt-decay-clif": _Given(
            ShortcutNetwork(learnt, ("layer1",), LossSpec(distillation=0.5)), double | {"compiled": ("float64",)}
        ),
        "current-detached-reset-next": _Given(
            ShortcutNetwork(
                plain.replace(neuron=current, batch_norm_epsilon=0.03, batch_norm_momentum=0.37),
                ("layer1", "layer2"),
                LossSpec(combine="logits"),
            ),
            {"dtypes": ("float32",)},
        ),
        # three blocks of three widths, each tapped; odd maps halve to what is not half of them
        "full-neuron": _Given(
            ShortcutNetwork(
                ResNetSpec(
                    **(_SMALL | {"depths": (3, 1, 1), "widths": (8, 9, 10), "time_steps": 3}),
                    neuron=_full_neuron(),
                    batch_norm_epsilon=0.2,
                    batch_norm_momentum=0.9,
                ),
                ("stem", "layer1", "layer2", "layer3"),
                attached,
            ),
            double | {"image": (7, 5), "coefficient": -0.375},
        ),
        "one-of-each": _Given(
            ShortcutNetwork(small.replace(time_steps=1), ("stem",), LossSpec(combine="logits")),
            double | {"image": (3, 1), "batch": 1},
        ),
        "coefficient-0": _Given(
            ShortcutNetwork(small.replace(neuron=hard), ("layer1",), LossSpec()),
            double | {"coefficient": 0.0, "image": (5, 6)},
        ),
        "coefficient-1.5": _Given(
            ShortcutNetwork(
                small.replace(batch_norm_epsilon=1e-3, batch_norm_momentum=1.0, in_channels=1), ("stem",), attached
            ),
            double | {"coefficient": 1.5, "batch": 4},
        ),
    }


#: Of the zoo, those that differ from another by their sizes alone.
_LIKE_ANOTHER = ("resnet18", "resnet34", "vgg11", "ms_resnet18", "spikformer_imagenet", "qkformer_imagenet")
#: What the cases of some have besides.
_BESIDES: dict[str, dict[str, Any]] = {
    "max_resnet18": {"soft": True, "shift": 0.75},
    "vggsnn": {"frames": True},
    "dvs_gesture": {"frames": True, "shift": 0.75},
    "sew_dvs": {"shift": 0.75},
    "convnet": {"branch": "convolutional", "soft": True},
    "spikformer_cifar": {"compiled": ("float64",), "shift": 0.75},
    "qkformer_cifar": {"shift": 0.75, "image": (16, 16)},
}


def _zoo() -> dict[str, _Given]:
    found = {}
    for index, (name, fields) in enumerate(NARROW.items()):
        if name in _LIKE_ANOTHER:
            continue
        besides = _BESIDES.get(name, {})
        given = {"dtypes": ("float64",), "batch": 3 if "frames" in besides else 2, **besides}
        spec = network_spec(name, num_classes=4, in_channels=2, time_steps=2, **fields)
        height, width = (8 if extent is None else extent for extent in spec.image_size)
        loss = LossSpec(combine="logits" if index % 2 else "losses")
        network = ShortcutNetwork(spec, spec.default_taps, loss, given.pop("branch", "linear"))
        found[name] = _Given(network, {"image": (height, width)} | given)
    return found


def network_cases() -> tuple[Case, ...]:
    """Return a ResNet-18 as deep as it is, shallow ones with other fields, and narrow ones of the zoo."""
    return tuple(
        NetworkCase(name=f"network-{name}", seed=4000 + index, network=network, **fields)
        for index, (name, (network, fields)) in enumerate((_networks() | _zoo()).items())
    )


def training_cases() -> tuple[Case, ...]:
    """Return five steps with a moving coefficient, of summed logits and of summed losses."""
    plain = ResNetSpec(**_SHALLOW, neuron=LIFSpec(surrogate=ArcTan()))
    learnt = plain.replace(neuron=LIFSpec(surrogate=ArcTan(), learn_decay=True, learn_initial=True))
    follows = plain.replace(neuron=LIFSpec(surrogate=ArcTan(), initial_follows=True))
    networks = {
        "logits": (ShortcutNetwork(follows, ("layer1",), LossSpec(combine="logits")), ("float32",), ("float32",)),
        "losses": (ShortcutNetwork(learnt, ("stem", "layer1"), LossSpec()), ("float64",), ()),
    }
    return tuple(
        TrainingCase(
            name=f"training-{name}",
            seed=4100 + index,
            network=network,
            schedule=Evolutionary(initial=0.5, total_steps=8),
            dtypes=dtypes,
            compiled=compiled,
        )
        for index, (name, (network, dtypes, compiled)) in enumerate(networks.items())
    )
