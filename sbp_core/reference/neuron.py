"""The canonical neuron over time: ``forward`` in any array namespace, ``adjoint`` derived by hand in float64 NumPy.

``forward`` runs :func:`sbp_core.dynamics.step`, as every adapter does. ``adjoint`` states the recursion a second time,
in its own way, so that an error in one of them shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbp_core import dynamics
from sbp_core.inputs import check_input, check_state
from sbp_core.namespace import array_namespace
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.surrogates import LeakyRectangle, Rectangle

Float64 = NDArray[np.float64]
StepFunction = Callable[[Float64], Float64]


class Adjoint(NamedTuple):
    """The adjoint's result: the forward values, and the gradient of each thing that went in."""

    output: Float64
    state: LIFState
    grad_input: Float64
    grad_state: LIFState
    grad_decay: float


def initial_state(spec: LIFSpec, like: Any, potential: float | None = None) -> LIFState:
    """Return the state of a neuron that starts afresh (``spec.start``).

    Args:
        spec: the neuron.
        like: one step of its input, shape ``(batch, ...)``.
        potential: takes the place of the spec's, as a learnt one does.
    """
    zero = array_namespace(like).zeros_like(like)
    start = spec.start if potential is None else spec.start | {"potential": potential}
    return LIFState(**{name: zero + value for name, value in start.items()})


def forward(
    spec: LIFSpec, x: Any, state: LIFState | None = None, *, decay: float | None = None
) -> tuple[Any, LIFState]:
    """Run the neuron over ``x``, shape ``(time, batch, ...)``, in the array namespace and dtype of ``x``.

    Args:
        spec: the neuron (equations: :class:`~sbp_core.LIFSpec`).
        x: its input.
        state: where it starts; None for afresh.
        decay: takes the place of ``spec.decay``.

    Returns:
        The output, of the shape of ``x``, and the last state.

    Raises:
        ValueError: a wrong shape, no time step, or a state that does not fit.
        TypeError: integers, or a state of another dtype.

    Example:
        >>> import numpy as np
        >>> spikes, state = forward(LIFSpec(), np.array([[0.75], [0.75], [0.75]]))
        >>> spikes.ravel().tolist(), state.potential.tolist()
        ([0.0, 1.0, 0.0], [0.75])
    """
    xp = array_namespace(x)
    check_input(x.shape, str(x.dtype))
    if state is None:
        state = initial_state(spec, x[0, ...])
    else:
        check_state(spec, state, x.shape[1:], str(x.dtype))

    def spike(u: Any) -> Any:
        return xp.astype(u >= 0 if spec.inclusive else u > 0, u.dtype)

    outputs = []
    for t in range(x.shape[0]):
        output, state = dynamics.step(spec, state, x[t, ...], spike=spike, detach=lambda value: value, decay=decay)
        outputs.append(output)
    return xp.stack(outputs), state


def adjoint(
    spec: LIFSpec,
    x: Float64,
    state: LIFState | None,
    output_cotangent: Float64,
    state_cotangent: LIFState,
    *,
    decay: float | None = None,
    step_function: StepFunction | None = None,
) -> Adjoint:
    """Return the gradients of ``sum(output * output_cotangent) + sum(state * state_cotangent)``, derived by hand.

    Backward through Eq. 4 of Guo et al. 2024, extended to the whole family; the step's derivative is the surrogate.

    Args:
        spec: the neuron.
        x: its input, shape ``(time, batch, ...)``, float64.
        state: where it starts; None for afresh.
        output_cotangent: shape of ``x``.
        state_cotangent: a part for each part of the state.
        decay: takes the place of ``spec.decay``.
        step_function: stands in for the Heaviside step; the smooth twin, ``spec.surrogate.antiderivative``, makes these
            the true gradients, which finite differences can check.
    """
    heaviside = step_function or (lambda u: (u >= 0 if spec.inclusive else u > 0).astype(np.float64))
    kept = spec.decay if decay is None else decay
    gain = 1.0 - kept if spec.input_gain == "complement" else spec.input_gain
    threshold, low = spec.threshold, spec.reset_value
    hard, soft = spec.reset == "hard", spec.reset == "soft"
    now, later = spec.reset_timing == "now", spec.reset_timing == "next"
    fires = spec.output == "spikes"
    state = initial_state(spec, x[0]) if state is None else state

    # forward, keeping every potential before (H) and after (V) its reset
    V, current, spikes, M = state.potential, state.current, state.spikes, state.complementary
    tape = []
    outputs = []
    for c in x:
        current = c if spec.synaptic_decay is None else spec.synaptic_decay * current + c
        R = heaviside(_stretch(spec, V) * (V - threshold))
        resting = V * (1.0 - R) + low * R if hard and later else V
        H = spec.rest + kept * (resting - spec.rest) + gain * current
        if soft and later:
            H = H - threshold * R
        S = heaviside(_stretch(spec, H) * (H - threshold))
        tape.append((V, resting, R, current, H, S, M))
        outputs.append(H if not fires else spikes if spec.stores_spikes else R if spec.output_delay else S)
        V = H
        if now and hard:
            V = H * (1.0 - S) + low * S
        elif now and soft:
            V = H - threshold * S
        if spec.complementary_state:
            M = M * _sigmoid((1.0 - kept) * (H - spec.rest)) + S
            V = V - S * _sigmoid(M)
        spikes = S
    final = LIFState(V, current if spec.synaptic_decay is not None else None, spikes if spec.stores_spikes else None, M)

    # backward: aX is the adjoint of X
    aV = state_cotangent.potential
    aI = state_cotangent.current if spec.synaptic_decay is not None else np.zeros_like(x[0])
    aP = state_cotangent.spikes if spec.stores_spikes else np.zeros_like(x[0])
    aM = state_cotangent.complementary
    a_decay = 0.0
    grad_input = np.zeros_like(x)
    for t in reversed(range(len(x))):
        V, resting, R, current, H, S, M = tape[t]
        given = output_cotangent[t]
        aS = np.zeros_like(H)
        aR = np.zeros_like(H)
        aH = aV
        if not fires:
            aH = aH + given
        elif spec.stores_spikes:
            aS, aP = aS + aP, given
        elif spec.output_delay:
            aR = aR + given
        else:
            aS = aS + given
        if now and hard:
            aH = aH * (1.0 - S)
            aS = aS if spec.detach_reset else aS + aV * (low - H)
        elif now and soft and not spec.detach_reset:
            aS = aS - threshold * aV
        if spec.complementary_state:
            kept_share = _sigmoid((1.0 - kept) * (H - spec.rest))
            lowered = _sigmoid(M * kept_share + S)
            aM = aM - aV * S * lowered * (1.0 - lowered)
            aS = aS + aM if spec.detach_reset else aS + aM - aV * lowered
            a_leak = aM * M * kept_share * (1.0 - kept_share)
            aH = aH + (1.0 - kept) * a_leak
            a_decay -= float(np.sum(a_leak * (H - spec.rest)))
            aM = aM * kept_share
        stretch = _stretch(spec, H)
        aH = aH + aS * stretch * spec.surrogate.derivative(stretch * (H - threshold), np)

        a_decay += float(np.sum(aH * (resting - spec.rest)))
        if spec.input_gain == "complement":
            a_decay -= float(np.sum(aH * current))
        aI = aI + gain * aH
        grad_input[t] = aI
        aI = spec.synaptic_decay * aI if spec.synaptic_decay is not None else np.zeros_like(aI)

        aV = kept * aH
        if soft and later and not spec.detach_reset:
            aR = aR - threshold * aH
        elif hard and later:
            aR = aR if spec.detach_reset else aR + aV * (low - V)
            aV = aV * (1.0 - R)
        stretch = _stretch(spec, V)
        aV = aV + aR * stretch * spec.surrogate.derivative(stretch * (V - threshold), np)

    grad_state = LIFState(aV, aI if spec.synaptic_decay is not None else None, aP if spec.stores_spikes else None, aM)
    return Adjoint(np.stack(outputs), final, grad_input, grad_state, a_decay)


def _sigmoid(x: Float64) -> Float64:
    return 1.0 / (1.0 + np.exp(-x))


def _stretch(spec: LIFSpec, potential: Float64) -> float:
    if not spec.width_follows:
        return 1.0
    half_width: float = spec.surrogate.half_width  # type: ignore[attr-defined]  # the spec has checked
    return float(half_width / np.sqrt(np.var(potential) + 1e-6))


def jumps(spec: LIFSpec) -> tuple[float, ...]:
    """Return where, relative to the threshold (and stretched, where the width follows), spikes or gradients jump."""
    edge = spec.surrogate.width / 2 if isinstance(spec.surrogate, Rectangle | LeakyRectangle) else 0.0
    return (0.0, -edge, edge) if edge else (0.0,)


def margin(
    spec: LIFSpec, x: Float64, state: LIFState | None = None, *, decay: float | None = None, ties: bool = True
) -> float:
    """Return how far a run stays from every jump: from the threshold, and from a rectangle's edges.

    Within rounding of a jump two correct implementations may differ; random cases keep this above a guard band.

    Args:
        spec: the neuron.
        x: its input.
        state: where it starts.
        decay: takes the place of ``spec.decay``.
        ties: False to leave out what lies on a jump exactly: of sums of spikes it does so in every implementation.
    """
    if spec.output == "potential":
        return math.inf
    places = jumps(spec)
    least = math.inf
    state = initial_state(spec, x[0]) if state is None else state

    def spike(u: Float64) -> Float64:
        nonlocal least
        for jump in places:
            distances = np.abs(u - jump)
            counted = distances if ties else distances[distances != 0.0]
            least = min(least, float(np.min(counted, initial=math.inf)))
        return (u >= 0 if spec.inclusive else u > 0).astype(np.float64)

    for c in x:
        _, state = dynamics.step(spec, state, c, spike=spike, detach=lambda value: value, decay=decay)
    return least
