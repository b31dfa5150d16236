"""Neuron level: the whole family over time. The cases themselves are in :mod:`.neuron_cases`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.compare import absent, close, close_number, equal, native_dtype
from sbp_conformance.levels.base import REFERENCE, Case, reference_dtype
from sbp_conformance.precision import representable
from sbp_conformance.results import Finding, Kind
from sbp_core import LIFSpec, LIFState, dynamics
from sbp_core.backend import Backend, Mode, NeuronResult
from sbp_core.reference import neuron as reference_neuron

Float64 = NDArray[np.float64]

#: A random run stays this far from every jump; float32 potentials differ by 1e-5 at most (tested).
GUARD = 1e-3
_ATTEMPTS = 1000


class NoDrawError(RuntimeError):
    """No draw of a case keeps off the jumps."""


class NeuronInputs(NamedTuple):
    """What a neuron case feeds in, float64 arrays; the state is None for a fresh start."""

    x: Float64
    state: LIFState | None
    output_cotangent: Float64
    state_cotangent: LIFState


@dataclass(frozen=True, kw_only=True)
class NeuronCase(Case):
    """A neuron over random input, at a distance from its jumps.

    Attributes:
        spec: the neuron.
        shape: of the input, (time, batch, ...).
        with_state: start from a random state instead of afresh.
        decay_logit: w of decay = sigmoid(w), where the decay is learnt.
        attempts: draws to try.
    """

    level: ClassVar[str] = "neuron"
    needs: ClassVar[tuple[str, ...]] = ("neuron",)
    spec: LIFSpec
    shape: tuple[int, ...]
    with_state: bool = False
    decay_logit: float | None = None
    attempts: int = _ATTEMPTS

    @property
    def decay(self) -> float | None:
        """The learnt decay, None where it is not learnt."""
        return None if self.decay_logit is None else 1.0 / (1.0 + math.exp(-self.decay_logit))

    def inputs(self, dtype: str) -> NeuronInputs:
        """Return what goes in, rounded to ``dtype``: both sides see the same numbers."""
        x, state, output_cotangent, state_cotangent = self.drawn
        return NeuronInputs(
            representable(x, dtype),
            None if state is None else _round(state, dtype),
            representable(output_cotangent, dtype),
            _round(state_cotangent, dtype),
        )

    @cached_property
    def drawn(self) -> NeuronInputs:
        """The first of a sequence of random draws that is fit to compare."""
        for attempt in range(self.attempts):
            given = self._attempt(np.random.default_rng([self.seed, attempt]))
            if self._is_fit(given):
                return given
        raise NoDrawError(f"no draw of case {self.name!r} keeps {GUARD} from every jump; give it another seed")

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the output, the last state and every gradient."""
        x, state, output_cotangent, state_cotangent = self.inputs(dtype)
        got = backend.neuron(
            self.spec,
            x,
            state,
            output_cotangent,
            state_cotangent,
            decay_logit=self.decay_logit,
            dtype=dtype,
            mode=mode,
        )
        if not isinstance(got, NeuronResult):
            problem = f"wrong type: expected a NeuronResult, got {type(got).__name__}"
            return [Finding(quantity="result", kind="contract", problem=problem)]
        want = self.expected(dtype)
        allowed = self.tolerances[dtype]
        findings = [native_dtype(got.dtype, dtype)]
        if self.spec.output == "spikes":
            findings.append(equal("spikes", got.output, want.output, dtype))
        else:
            findings.append(
                close("output", "state", got.output, want.output, dtype, allowed.value, scale=abs(self.spec.threshold))
            )
        findings += self._compare_state(got.state, want.state, dtype)
        findings.append(
            close("gradient of the input", "gradient", got.grad_input, want.grad_input, dtype, allowed.gradient)
        )
        findings += _compare_parts(
            "gradient of the initial {}", "gradient", got.grad_state, want.grad_state, dtype, allowed.gradient
        )
        quantity = "gradient of the decay logit"
        if want.grad_decay_logit is None:
            findings.append(absent(quantity, got.grad_decay_logit))
        else:
            findings.append(
                close_number(quantity, "gradient", got.grad_decay_logit, want.grad_decay_logit, dtype, allowed.gradient)
            )
        return findings

    def expected(self, dtype: str) -> NeuronResult:
        """Return what the reference gives."""
        x, state, output_cotangent, state_cotangent = self.inputs(dtype)
        return REFERENCE.neuron(
            self.spec,
            x,
            state,
            output_cotangent,
            state_cotangent,
            decay_logit=self.decay_logit,
            dtype=reference_dtype(dtype),
            mode="eager",
        )

    def _compare_state(self, got: object, want: LIFState, dtype: str) -> list[Finding]:
        if not isinstance(got, LIFState):
            return _compare_parts("final {}", "state", got, want, dtype, 0.0)
        # subtracting the threshold cancels: what is left is as precise as the threshold
        allowed, scale = self.tolerances[dtype].value, abs(self.spec.threshold)
        rest = want._replace(spikes=None)
        findings = _compare_parts("final {}", "state", got._replace(spikes=None), rest, dtype, allowed, scale=scale)
        quantity = "final spikes"
        if want.spikes is None:
            return [*findings, absent(quantity, got.spikes)]
        return [*findings, equal(quantity, got.spikes, want.spikes, dtype)]

    def _attempt(self, random: np.random.Generator) -> NeuronInputs:
        """Draw input that keeps the potential about the threshold, whatever the neuron's gains."""
        spec = self.spec
        decay = spec.decay if self.decay is None else self.decay
        gain = 1.0 - decay if spec.input_gain == "complement" else spec.input_gain
        if spec.synaptic_decay not in (None, 1.0):
            gain = gain / (1.0 - spec.synaptic_decay)
        lost = 1.0 - decay if spec.reset == "none" else max(1.0 - decay, 0.5)
        # a gain of 0 takes any input
        x = random.normal(lost * (spec.threshold - spec.rest), 0.6, self.shape) / (gain or 1.0)
        state = self._parts(random, binary=True) if self.with_state else None
        return self._in_float32(
            NeuronInputs(x, state, random.normal(size=self.shape), self._parts(random, binary=False))
        )

    def _parts(self, random: np.random.Generator, *, binary: bool) -> LIFState:
        """Draw a part for each part of the state; ``binary`` spikes are 0 or 1."""
        shape = self.shape[1:]
        spikes = random.integers(0, 2, shape) * 1.0 if binary else random.normal(size=shape)
        return LIFState(
            random.normal(0.4, 0.5, shape),
            random.normal(0.0, 0.5, shape) if self.spec.synaptic_decay is not None else None,
            spikes if self.spec.stores_spikes else None,
            random.normal(0.5, 1.0, shape) if self.spec.complementary_state else None,
        )

    def _in_float32(self, given: NeuronInputs) -> NeuronInputs:
        # float64 and float32 then start from the very same numbers, and one guard band serves both
        return NeuronInputs(
            representable(given.x, "float32"),
            None if given.state is None else _round(given.state, "float32"),
            representable(given.output_cotangent, "float32"),
            _round(given.state_cotangent, "float32"),
        )

    def _is_fit(self, given: NeuronInputs) -> bool:
        """Whether a draw keeps off the jumps, fires and keeps silent, and has no gradient that cancels to nearly 0."""
        if reference_neuron.margin(self.spec, given.x, given.state, decay=self.decay) < GUARD:
            return False
        result = REFERENCE.neuron(self.spec, *given, decay_logit=self.decay_logit, dtype="float64", mode="eager")
        if self.spec.output == "spikes" and self.shape[0] > 1 and not 0.0 < result.output.mean() < 1.0:
            return False
        largest = float(np.max(np.abs(result.grad_input)))
        if largest < 1e-3:
            return False
        # a single step from rest has no gradient of the decay at all: that 0 is exact
        return result.grad_decay_logit in (None, 0.0) or abs(result.grad_decay_logit) > 0.1 * largest


@dataclass(frozen=True, kw_only=True)
class EdgeOfRangeCase(NeuronCase):
    """A neuron at an edge of what its fields may be: what it gives may well be silence, or gradients that are 0."""

    def _is_fit(self, given: NeuronInputs) -> bool:
        return reference_neuron.margin(self.spec, given.x, given.state, decay=self.decay) >= GUARD


@dataclass(frozen=True, kw_only=True)
class WideCase(NeuronCase):
    """A neuron over so many elements that a backend may take another path: blocks, threads, fused loops.

    Each element of a step is a run of its own: those that come near a jump are drawn again.
    """

    def _attempt(self, random: np.random.Generator) -> NeuronInputs:
        given = super()._attempt(random)
        for _ in range(self.attempts):
            near = self._margins(given) < GUARD
            if not near.any():
                break
            other = super()._attempt(random)
            given.x[:, near] = other.x[:, near]
            if given.state is not None and other.state is not None:
                for part, new in zip(given.state, other.state, strict=True):
                    if part is not None:
                        part[near] = new[near]
        return given

    def _margins(self, given: NeuronInputs) -> Float64:
        """Return how far the run of each element stays from every jump."""
        least = np.full(self.shape[1:], np.inf)
        jumps = reference_neuron.jumps(self.spec)
        state = reference_neuron.initial_state(self.spec, given.x[0]) if given.state is None else given.state

        def spike(u: Float64) -> Float64:
            for jump in jumps:
                np.minimum(least, np.abs(u - jump), out=least)
            return (u >= 0 if self.spec.inclusive else u > 0).astype(np.float64)

        for x in given.x:
            _, state = dynamics.step(self.spec, state, x, spike=spike, detach=lambda value: value, decay=self.decay)
        return least


@dataclass(frozen=True, kw_only=True)
class TieCase(NeuronCase):
    """A neuron whose potential lands exactly on the threshold, again and again.

    Potentials are multiples of ``2^-bits`` and every factor is a power of two, so that no operation rounds: spikes and
    states are the same in every dtype and on every machine, and ``>`` and ``>=`` differ.

    Attributes:
        bits: fractional bits of the potentials.
    """

    bits: int

    def _is_fit(self, given: NeuronInputs) -> bool:
        return True

    def _attempt(self, random: np.random.Generator) -> NeuronInputs:
        """Choose each potential first, a third of them on the threshold, then the input that leads there."""
        spec, unit = self.spec, 2.0**-self.bits
        drawn = super()._attempt(random)
        # all of the state lies on the potentials' grid
        state = None if drawn.state is None else each_part(lambda part: np.round(part / unit) * unit, drawn.state)
        given = reference_neuron.initial_state(spec, drawn.x[0]) if state is None else state
        inputs = []
        for _ in range(self.shape[0]):
            grid = random.integers(round(-1 / unit), round(2 / unit), self.shape[1:], endpoint=True) * unit
            target = np.where(random.random(self.shape[1:]) < 1 / 3, spec.threshold, grid)
            without, slope = self._affine(given)
            inputs.append((target - without) / slope)
            given = self._step(given, inputs[-1])[1]
        return NeuronInputs(np.stack(inputs), state, drawn.output_cotangent, drawn.state_cotangent)

    def potentials(self) -> Float64:
        """Return the potential before reset at each step, shape of the input."""
        given = self.drawn
        state = reference_neuron.initial_state(self.spec, given.x[0]) if given.state is None else given.state
        found = []
        for x in given.x:
            potential, state = self._step(state, x)
            found.append(potential)
        return np.stack(found)

    def _affine(self, state: LIFState) -> tuple[Float64, Float64]:
        # the potential before reset is affine in this step's input
        zero = np.zeros(self.shape[1:])
        without = self._step(state, zero)[0]
        return without, self._step(state, zero + 1.0)[0] - without

    def _step(self, state: LIFState, x: Float64) -> tuple[Float64, LIFState]:
        """Return the potential before reset, and the state after."""
        seen = []

        def spike(u: Float64) -> Float64:
            seen.append(u)
            return (u >= 0 if self.spec.inclusive else u > 0).astype(np.float64)

        _, after = dynamics.step(self.spec, state, x, spike=spike, detach=lambda value: value, decay=self.decay)
        resets_now = self.spec.reset != "none" and self.spec.reset_timing == "now"
        return (seen[-1] + self.spec.threshold if resets_now else after.potential), after


def each_part(function: Callable[[Any], Any], state: LIFState) -> LIFState:
    """Return a state whose parts are the function's of those of another."""
    return LIFState(*(None if part is None else function(part) for part in state))


def _round(state: LIFState, dtype: str) -> LIFState:
    return each_part(lambda part: representable(part, dtype), state)


def _compare_parts(
    quantity: str, kind: Kind, got: object, want: LIFState, dtype: str, allowed: float, *, scale: float = 0.0
) -> list[Finding]:
    if not isinstance(got, LIFState):
        problem = f"wrong type: expected a LIFState, got {type(got).__name__}"
        return [Finding(quantity=quantity.format("state"), kind="contract", problem=problem)]
    findings = []
    for name, found, expected in zip(LIFState._fields, got, want, strict=True):
        if expected is None:
            findings.append(absent(quantity.format(name), found))
        else:
            findings.append(close(quantity.format(name), kind, found, expected, dtype, allowed, scale=scale))
    return findings
