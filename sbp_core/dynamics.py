"""One step of the canonical neuron, the only place where its equations are executed.

It uses nothing but arithmetic operators, so the arrays of any framework pass through it; the caller supplies the spike
(with its framework's surrogate gradient), the function that detaches from the gradient and, if it has one of its own,
the sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sbp_core.namespace import array_namespace
from sbp_core.specs.neurons import LIFSpec, LIFState

Function = Callable[[Any], Any]

#: How far on its way to the mean of a call's last potentials a start that follows them moves.
_FOLLOWS_BY = 0.1


def _sigmoid(x: Any) -> Any:
    # by tanh: exp would overflow
    return 0.5 * array_namespace(x).tanh(0.5 * x) + 0.5


def spread(x: Any, xp: Any = None) -> Any:
    """Return the standard deviation of all of ``x``, a thousandth at least.

    Args:
        x: potentials.
        xp: their array namespace, found unless given.
    """
    functions = array_namespace(x) if xp is None else xp
    return functions.sqrt(functions.mean((x - functions.mean(x)) ** 2) + 1e-6)


def ends(potential: Any, spikes: Any, xp: Any = None) -> tuple[Any, Any]:
    """Return the sum of the last potentials of those neurons that fired, and how many these are.

    Args:
        potential: the last, after the reset, of each neuron of each sample.
        spikes: how many each of them gave, of the same shape and dtype.
        xp: their array namespace, found unless given.
    """
    functions = array_namespace(potential) if xp is None else xp
    fired = functions.sign(spikes)
    return functions.sum(fired * potential), functions.sum(fired)


def follow(start: Any, total: Any, count: Any, xp: Any = None) -> Any:
    """Return a start that follows, moved (``initial_follows`` of :class:`~sbp_core.LIFSpec`).

    Args:
        start: what it was, a scalar.
        total: the sum of last potentials, of :func:`ends`.
        count: how many these are; where there are none the start stays.
        xp: their array namespace, found unless given.

    Example:
        >>> import numpy as np
        >>> potential, spikes = np.array([[0.5, 9.0], [0.3, 0.1]]), np.array([[2.0, 0.0], [0.0, 1.0]])
        >>> round(float(follow(np.array(0.2), *ends(potential, spikes))), 6)
        0.21
        >>> float(follow(np.array(0.2), *ends(potential, 0.0 * spikes)))
        0.2
    """
    functions = array_namespace(total) if xp is None else xp
    some = functions.sign(count)
    # never a division by 0, whose NaN would outlast the product
    return start + _FOLLOWS_BY * some * (total / (count + 1.0 - some) - start)


def step(
    spec: LIFSpec,
    state: LIFState,
    x: Any,
    *,
    spike: Function,
    detach: Function,
    sigmoid: Function = _sigmoid,
    spread: Function = spread,
    decay: Any = None,
) -> tuple[Any, LIFState]:
    """Advance the neuron by one time step (equations: :class:`~sbp_core.LIFSpec`; Guo et al. 2024, Eq. 1-3).

    Args:
        spec: the neuron.
        state: its state before the step, arrays of the shape and dtype of ``x``.
        x: the input of this step, shape ``(batch, ...)``.
        spike: maps ``u - threshold`` to spikes of the same dtype; its gradient is the surrogate's.
        detach: returns its argument, outside the gradient.
        sigmoid: of a complementary state; the array API's unless given.
        spread: what a width follows; :func:`spread` unless given.
        decay: a learnt decay that takes the place of ``spec.decay``; a scalar, or an array that broadcasts to ``x``.

    Returns:
        The output (spikes, or the potential of a read-out) and the new state.
    """

    def fire(potential: Any) -> Any:
        over = potential - spec.threshold
        if not spec.width_follows:
            return spike(over)
        half_width: float = spec.surrogate.half_width  # type: ignore[attr-defined]  # the spec has checked
        # stretched by a constant, it fires where it did, and its derivative is the wider surrogate's
        return spike(half_width / detach(spread(over)) * over)

    kept = spec.decay if decay is None else decay
    potential, current = state.potential, x
    if spec.synaptic_decay is not None:
        current = spec.synaptic_decay * state.current + x

    earlier = None
    if spec.output == "spikes" and not spec.stores_spikes and (spec.output_delay or _resets_next(spec)):
        earlier = fire(potential)

    pending = None
    if earlier is not None and _resets_next(spec):
        pending = detach(earlier) if spec.detach_reset else earlier
        if spec.reset == "hard":
            potential = _hard_reset(spec, potential, pending)

    before = _leak(spec, potential, kept) + _gain(spec, current, kept)
    if pending is not None and spec.reset == "soft":
        before = before - spec.threshold * pending

    stored_current = current if spec.synaptic_decay is not None else None
    if spec.output == "potential":
        return before, LIFState(before, stored_current)
    if earlier is not None and spec.output_delay:
        return earlier, LIFState(before, stored_current)

    spikes = fire(before)
    after, memory = before, None
    if spec.reset_timing == "now" and spec.reset != "none":
        erasing = detach(spikes) if spec.detach_reset else spikes
        after = _hard_reset(spec, before, erasing) if spec.reset == "hard" else before - spec.threshold * erasing
        if spec.complementary_state:
            memory = state.complementary * sigmoid((1.0 - kept) * _above_rest(spec, before)) + spikes
            after = after - erasing * sigmoid(memory)
    if spec.stores_spikes:
        return state.spikes, LIFState(after, stored_current, spikes, memory)
    return spikes, LIFState(after, stored_current, complementary=memory)


def _resets_next(spec: LIFSpec) -> bool:
    return spec.reset_timing == "next" and spec.reset != "none"


def _hard_reset(spec: LIFSpec, potential: Any, spikes: Any) -> Any:
    kept = potential * (1.0 - spikes)
    return kept if spec.reset_value == 0.0 else kept + spec.reset_value * spikes


def _above_rest(spec: LIFSpec, potential: Any) -> Any:
    return potential if spec.rest == 0.0 else potential - spec.rest


def _leak(spec: LIFSpec, potential: Any, decay: Any) -> Any:
    leaking = decay * _above_rest(spec, potential)
    return leaking if spec.rest == 0.0 else spec.rest + leaking


def _gain(spec: LIFSpec, current: Any, decay: Any) -> Any:
    if spec.input_gain == "complement":
        return (1.0 - decay) * current
    return current if spec.input_gain == 1.0 else spec.input_gain * current
