"""Edges level: what the cases of the other levels leave out, because no random draw gets there.

- ``empty``: a batch of no samples gives empty arrays of the right shapes, and a learnt decay the gradient 0.
- ``single-step``: one time step, in every dtype, on exact ties.
- ``huge``, ``tiny``: potentials near the ends of a dtype's range. A surrogate's tail underflows to 0 there: it must not
  become NaN on the way (infinity times 0), and tiny potentials keep their full relative precision.
- ``huge-cotangent``: gradients near the ends of the range, which nothing clips.
- ``layout``: inputs that are views: channels last, every other element, reversed, Fortran order, one step repeated
  without copies. The result is that of a contiguous copy, bit for bit in the spikes, and the input is left as it was.
  The arrays are wide enough that a backend which picks a faster kernel for large inputs does so here.
- ``double``: numbers that float32 does not hold, in input, state and cotangents: whatever passes through float32 on the
  way shows.
- ``infinite``, ``nan``: one input that is not finite. It propagates as in the equations under IEEE arithmetic, and no
  further: the neuron's state is not finite from then on, which shows even where its spikes do not (a comparison with
  NaN is false, so that NaN fires nothing: the same in every framework and every peer), the gradient is not finite where
  the adjoint is not, and no other neuron and no other sample changes.
- ``spike``: the step and every surrogate at infinities and NaN. The slope at an infinity is the limit, never NaN.
- ``loss``: a class masked with -inf leaves loss and gradient finite; NaN in a branch makes the loss NaN, at a
  coefficient of 0 too (0 times NaN is NaN): a diverged branch is not hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.levels.base import Case, Tolerance, tolerances
from sbp_conformance.levels.loss import LossCase
from sbp_conformance.levels.neuron import NeuronCase, NeuronInputs, TieCase, each_part
from sbp_conformance.levels.surrogate import SurrogateCase
from sbp_conformance.precision import FULL, HALF, representable
from sbp_conformance.results import Finding
from sbp_core import ArcTan, LIFSpec, LossSpec, Rectangle, Sigmoid, Triangle
from sbp_core.backend import Backend, Mode
from sbp_core.specs.surrogates import FAMILIES

Float64 = NDArray[np.float64]

#: What a potential can grow to: sums of a few stay within the dtype.
HUGE = {"float64": 1e300, "float32": 1e30, "bfloat16": 1e30, "float16": 8192.0}
#: A thousand times the smallest normal number: gradients and decayed potentials stay normal too.
TINY = {"float64": 1e-300, "float32": 1e-34, "bfloat16": 1e-34, "float16": 2.0**-6}

LAYOUTS: dict[str, Callable[[Float64], Float64]] = {
    "channels-last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 2, -1)), -1, 2),
    "sliced": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[::-1, ..., ::-1].copy()[::-1, ..., ::-1],
    "fortran": np.asfortranarray,
}


@dataclass(frozen=True, kw_only=True)
class UnguardedCase(NeuronCase):
    """A neuron over input that needs no guard band: there is none, or it is nowhere near a jump."""

    level: ClassVar[str] = "edges"

    def _is_fit(self, given: NeuronInputs) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class DoubleCase(NeuronCase):
    """A neuron over numbers that float32 does not hold."""

    level: ClassVar[str] = "edges"

    def _in_float32(self, given: NeuronInputs) -> NeuronInputs:
        return given


@dataclass(frozen=True, kw_only=True)
class ScaledCase(UnguardedCase):
    """Inputs of one sign and one magnitude in each neuron, so that no two cancel.

    Attributes:
        scale: the magnitude in each dtype.
    """

    scale: Mapping[str, float]

    def inputs(self, dtype: str) -> NeuronInputs:
        """Return what goes in, of the dtype's own magnitude."""
        given = super().inputs(dtype)
        random = np.random.default_rng(self.seed)
        signs = np.where(random.random(self.shape[1:]) < 0.5, -1.0, 1.0)
        x = signs * random.uniform(0.5, 1.5, self.shape) * self.scale[dtype]
        return given._replace(x=representable(x, dtype))

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare everything; a square that overflows under a division is as it should be."""
        with np.errstate(over="ignore"):
            return super().run(backend, dtype=dtype, mode=mode)


@dataclass(frozen=True, kw_only=True)
class HugeCotangentCase(TieCase):
    """Cotangents of a large magnitude."""

    level: ClassVar[str] = "edges"

    def inputs(self, dtype: str) -> NeuronInputs:
        """Return what goes in."""
        given = super().inputs(dtype)
        return given._replace(output_cotangent=representable(given.output_cotangent * HUGE[dtype], dtype))


@dataclass(frozen=True, kw_only=True)
class NonFiniteCase(NeuronCase):
    """A neuron of which one input is not finite.

    Attributes:
        value: that input, in the first neuron of the first sample at the second step.
    """

    level: ClassVar[str] = "edges"
    value: float

    def inputs(self, dtype: str) -> NeuronInputs:
        """Return what goes in."""
        given = super().inputs(dtype)
        x = given.x.copy()
        x[1].flat[0] = self.value
        return given._replace(x=x)

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare everything, quietly: the reference meets infinity minus infinity too."""
        with np.errstate(invalid="ignore", over="ignore"):
            return super().run(backend, dtype=dtype, mode=mode)


@dataclass(frozen=True, kw_only=True)
class SingleStepCase(TieCase):
    """One time step on exact ties."""

    level: ClassVar[str] = "edges"


@dataclass(frozen=True, kw_only=True)
class LayoutCase(TieCase):
    """A wide neuron whose input, state and cotangents are views; on exact ties, so that no guard band is needed.

    Attributes:
        layout: a key of :data:`LAYOUTS`, or "repeated": one step of input, repeated without copies.
    """

    level: ClassVar[str] = "edges"
    layout: str

    def inputs(self, dtype: str) -> NeuronInputs:
        """Return what goes in, as views."""
        return self._views(super().inputs(dtype))

    def _views(self, given: NeuronInputs) -> NeuronInputs:
        if self.layout == "repeated":
            return given._replace(x=np.broadcast_to(given.x[:1].copy(), self.shape))
        view = LAYOUTS[self.layout]

        def part(array: Float64) -> Float64:  # (batch, ...): as a step of the input
            seen: Float64 = view(array[None])[0]
            return seen

        return NeuronInputs(
            view(given.x),
            None if given.state is None else each_part(part, given.state),
            view(given.output_cotangent),
            each_part(part, given.state_cotangent),
        )


@dataclass(frozen=True, kw_only=True)
class SpikeLayoutCase(SurrogateCase):
    """A surrogate at points that lie in memory in another order."""

    level: ClassVar[str] = "edges"

    def points(self, dtype: str) -> Float64:
        """Return them, two columns in Fortran order."""
        return np.asfortranarray(super().points(dtype).reshape(-1, 2))


@dataclass(frozen=True, kw_only=True)
class LossLayoutCase(LossCase):
    """A loss of logits that lie in memory in another order."""

    level: ClassVar[str] = "edges"

    def inputs(self, dtype: str) -> tuple[Float64, list[Float64], NDArray[np.int64]]:
        """Return logits in Fortran order and every second label."""
        main, branches, labels = super().inputs(dtype)
        return np.asfortranarray(main), [*map(np.asfortranarray, branches)], np.repeat(labels, 2)[::2]


@dataclass(frozen=True, kw_only=True)
class FarPointsCase(SurrogateCase):
    """A surrogate at infinities and NaN, or at no point at all.

    Attributes:
        at: the points.
    """

    level: ClassVar[str] = "edges"
    at: tuple[float, ...]

    def points(self, dtype: str) -> Float64:
        """Return them."""
        return np.asarray(self.at, np.float64)

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the spikes and the gradient."""
        with np.errstate(invalid="ignore", over="ignore"):
            return super().run(backend, dtype=dtype, mode=mode)


@dataclass(frozen=True, kw_only=True)
class NonFiniteLossCase(LossCase):
    """A loss of logits one of which is not finite.

    Attributes:
        value: that logit.
        where: 0 in the main logits, 1 in the first branch's, and so on.
    """

    level: ClassVar[str] = "edges"
    value: float
    where: int

    def inputs(self, dtype: str) -> tuple[Float64, list[Float64], NDArray[np.int64]]:
        """Return logits and labels; the logit is the first sample's, of a class that is not its label."""
        main, branches, labels = super().inputs(dtype)
        array = [main, *branches][self.where]
        array[0, (labels[0] + 1) % self.shape[1]] = self.value
        return main, branches, labels

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the loss and its gradients."""
        with np.errstate(invalid="ignore", over="ignore"):
            return super().run(backend, dtype=dtype, mode=mode)


def cases() -> tuple[Case, ...]:
    """Return all of them."""
    return (*_sizes(), *_magnitudes(), *_layouts(), *_doubles(), *_non_finite(), *_far_points(), *_losses())


def _sizes() -> list[Case]:
    learnt = LIFSpec(learn_decay=True, surrogate=ArcTan())
    empty = UnguardedCase(
        name="edges-empty-neuron",
        seed=5000,
        spec=learnt,
        shape=(3, 0, 2),
        with_state=True,
        decay_logit=0.5,
        compiled=("float32",),
        tolerances=tolerances(_ROUNDINGS),
    )
    nowhere = FarPointsCase(
        name="edges-empty-spike", seed=5001, surrogate=ArcTan(), at=(), tolerances=tolerances(_ROUNDINGS)
    )
    step = SingleStepCase(
        name="edges-single-step",
        seed=5002,
        spec=LIFSpec(surrogate=Triangle()),
        shape=(1, 2, 3),
        bits=2,
        vmapped=FULL,
        tolerances=_exact(),
    )
    return [empty, nowhere, step]


def _magnitudes() -> list[Case]:
    specs = {
        "hard": LIFSpec(surrogate=ArcTan()),
        "soft-rectangle": LIFSpec(reset="soft", surrogate=Rectangle()),
        "readout": LIFSpec.leaky_integrator(decay=0.5),
    }
    cotangent = HugeCotangentCase(
        name="edges-huge-cotangent",
        seed=5016,
        spec=LIFSpec(surrogate=ArcTan()),
        shape=(4, 2, 3),
        bits=2,
        tolerances=_exact(),
    )
    return [cotangent] + [
        ScaledCase(
            name=f"edges-{name}-{magnitude}",
            seed=5010 + index,
            spec=spec,
            shape=(4, 2, 3),
            scale=scale,
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (name, spec, (magnitude, scale)) in enumerate(
            (name, spec, scale) for name, spec in specs.items() for scale in (("huge", HUGE), ("tiny", TINY))
        )
    ]


def _layouts() -> list[Case]:
    spec = LIFSpec(surrogate=Triangle())
    spike = SpikeLayoutCase(
        name="edges-layout-spike", seed=5026, surrogate=ArcTan(), dtypes=FULL, tolerances=tolerances(_ROUNDINGS)
    )
    loss = LossLayoutCase(
        name="edges-layout-loss",
        seed=5027,
        spec=LossSpec(),
        branches=2,
        coefficient=0.75,
        dtypes=FULL,
        tolerances=tolerances(_ROUNDINGS),
    )
    return [spike, loss] + [
        LayoutCase(
            name=f"edges-layout-{layout}",
            seed=5020 + index,
            # on exact ties of wide inputs both comparisons are told apart
            spec=spec.replace(inclusive=index % 2 == 1),
            shape=(4, 2, 4, 32, 33),
            bits=7,
            layout=layout,
            with_state=True,
            dtypes=FULL,
            tolerances=_exact(),
        )
        for index, layout in enumerate([*LAYOUTS, "repeated"])
    ]


def _doubles() -> list[Case]:
    specs = {
        "hard": LIFSpec(decay=0.7, threshold=1.1, input_gain=0.9, surrogate=ArcTan(height=0.7, width=1.3)),
        "current-delayed": LIFSpec(
            synaptic_decay=0.3,
            reset="soft",
            reset_timing="next",
            output_delay=1,
            rest=0.1,
            reset_value=-0.3,
            input_gain="complement",
            surrogate=Sigmoid(width=0.7),
        ),
        "learnt": LIFSpec(learn_decay=True, synaptic_decay=0.6, surrogate=ArcTan()),
        "readout": LIFSpec.leaky_integrator(decay=0.9, synaptic_decay=0.3, rest=0.7, input_gain=-1.1),
    }
    return [
        DoubleCase(
            name=f"edges-double-{name}",
            seed=5100 + index,
            spec=spec,
            shape=(4, 2, 3),
            with_state=True,
            decay_logit=0.1 if spec.learn_decay else None,
            dtypes=("float64",),
            compiled=("float64",) if name == "learnt" else (),
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (name, spec) in enumerate(specs.items())
    ]


def _non_finite() -> list[Case]:
    specs = {
        "hard": LIFSpec(surrogate=ArcTan()),
        "hard-detached": LIFSpec(surrogate=ArcTan(), detach_reset=True),
        "soft": LIFSpec(reset="soft", surrogate=ArcTan()),
        "readout": LIFSpec.leaky_integrator(decay=0.5),
    }
    values = {"nan": math.nan, "infinite": math.inf, "minus-infinite": -math.inf}
    return [
        NonFiniteCase(
            name=f"edges-{word}-{name}",
            seed=5030 + index,
            spec=spec,
            shape=(4, 2, 3),
            value=value,
            dtypes=FULL,
            compiled=("float32",) if (word, name) in _COMPILED else (),
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (name, spec, (word, value)) in enumerate(
            (name, spec, value) for name, spec in specs.items() for value in values.items()
        )
    ]


def _far_points() -> list[Case]:
    return [
        FarPointsCase(
            name=f"edges-spike-{family.replace('_', '-')}",
            seed=5050 + index,
            surrogate=FAMILIES[family](),
            at=(math.inf, -math.inf, math.nan, 1.0),
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, family in enumerate(FAMILIES)
    ]


def _losses() -> list[Case]:
    given = {
        "masked-class": (LossSpec(combine="logits"), -math.inf, 0, 0.25),
        "masked-class-of-a-branch": (LossSpec(), -math.inf, 1, 0.25),
        "nan": (LossSpec(combine="logits"), math.nan, 0, 0.25),
        "nan-in-a-branch-at-0": (LossSpec(), math.nan, 1, 0.0),
    }
    return [
        NonFiniteLossCase(
            name=f"edges-loss-{name}",
            seed=5080 + index,
            spec=spec,
            branches=2,
            coefficient=coefficient,
            value=value,
            where=where,
            dtypes=FULL,
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (name, (spec, value, where, coefficient)) in enumerate(given.items())
    ]


# a step of the recursion, forward or backward, and four steps
_ROUNDINGS = 24
_COMPILED = (("nan", "hard"), ("infinite", "soft"))


def _exact() -> dict[str, Tolerance]:
    # no operation rounds: states are equal
    allowed = tolerances(_ROUNDINGS)
    return {dtype: Tolerance(value=0.0, gradient=allowed[dtype].gradient) for dtype in (*FULL, *HALF)}
