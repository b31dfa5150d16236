"""The neuron over time, a pure function of tensors."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from sbp_core import dynamics, validation
from sbp_core.inputs import check_input, check_neuron, check_state
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.trace.expression import NotTraceableError
from sbp_core.trace.step import step_graph
from sbp_torch.kernels import fused, operator, portable
from sbp_torch.kernels.source import Keep, bits_per_step
from sbp_torch.spike import fire

Implementation = Literal["auto", "fused", "packed", "loop"]
# torch.compile cannot make one
_PAPER = LIFSpec()
#: torch.compile unrolls up to as many steps, on CUDA or of small input; else they are one operator in its graph.
MOST_UNROLLED = 8
_HALF = (torch.bfloat16, torch.float16)


def lif(
    x: Tensor,
    spec: LIFSpec | None = None,
    state: LIFState | None = None,
    *,
    decay: Tensor | float | None = None,
    implementation: Implementation = "auto",
    time_axis: Literal[0, 1] = 0,
) -> tuple[Tensor, LIFState]:
    """Run the canonical neuron over ``x`` (equations: :class:`~sbp_core.LIFSpec`; Guo et al. 2024, Eq. 1-3).

    Nothing is remembered between calls: pass the returned state to go on where this call ended. Detach its parts to cut
    the gradient there.

    In bfloat16 and float16 it computes in float32, potentials and gradients, and rounds what it returns: outputs
    (spikes are exact), states and gradients have the dtype of ``x``.

    Args:
        x: input, ``(time, batch, ...)``, floating.
        spec: the neuron; None is the paper's, ``LIFSpec()``.
        state: where it starts, parts of shape ``(batch, ...)`` and the dtype of ``x``; None for afresh.
        decay: takes the place of ``spec.decay`` and gets a gradient: a scalar, or a tensor that broadcasts to one step.
        implementation: how it is computed; the results are the same. "loop" runs tensor operations step by step.
            "fused" runs one compiled loop over all of time and one for its adjoint (:mod:`sbp_torch.kernels.fused`): on
            the CPU with numba, on CUDA with Triton. "packed" is that on the CPU, and keeps a few bits of each element
            for the backward in place of the input: for neurons whose adjoint needs no more (a box surrogate, and no
            gradient through a hard reset); it has no second derivative. "auto" takes "fused" where it can and the
            input is large enough to gain by it. A surrogate of your own that no loop can be made of, one whose width
            follows, and whatever is exported or traced, runs as tensor operations: :func:`implementation_for` says
            which, and why.
        time_axis: 1 where ``x``, and so the output, is ``(batch, time, ...)``.

    Returns:
        The output, of the shape and dtype of ``x``, and the last state.

    Raises:
        ValueError: a wrong shape, no time step, a state that does not fit, an unknown time axis, or an unknown
            implementation or one that cannot take this input.
        TypeError: integers, not a LIFSpec, or a state of another dtype.

    Example:
        >>> spikes, state = lif(torch.tensor([[0.75], [0.75], [0.75]]))
        >>> spikes.flatten().tolist(), state.potential.tolist()
        ([0.0, 1.0, 0.0], [0.75])
    """
    if spec is None:
        spec = _PAPER
    check_input(x.shape, str(x.dtype), time_axis=time_axis)
    leading = x if time_axis == 0 else x.movedim(1, 0)
    output, final = run(spec, leading, state, decay, implementation, wants_state=True)
    if final is None:
        raise RuntimeError("the neuron returned no state")
    # a view of what a Function gives may not be changed in place
    return output if time_axis == 0 else output.movedim(0, 1), final


def run(
    spec: LIFSpec,
    x: Tensor,
    state: LIFState | None,
    decay: Tensor | float | None,
    implementation: Implementation,
    *,
    wants_state: bool,
) -> tuple[Tensor, LIFState | None]:
    """Run a neuron as :func:`lif` does; the last state may be None if it is not wanted, which saves writing it."""
    check_neuron(spec, decay)
    check_input(x.shape, str(x.dtype))
    if state is not None:
        check_state(spec, state, x.shape[1:], str(x.dtype))
    if isinstance(decay, Tensor):
        decay = decay.to(_computed_in(x))
    elif decay is not None:
        # a number would be exact in tensor operations, and rounded in the fused loops
        decay = x.new_full((), decay, dtype=_computed_in(x))
    engine, keep = (None, "input") if portable.is_recorded(x) else _choose(implementation, spec, x, decay)
    if engine is not None and torch.compiler.is_compiling():
        return operator.run(spec, x, state, decay, wants_state=wants_state)
    if engine is not None:
        return fused.run(spec, x, state, decay, engine, keep=keep, wants_state=wants_state, loop=_loop)
    return _loop(spec, x, state, decay)


def implementation_for(
    x: Tensor,
    decay: Tensor | float | None = None,
    *,
    spec: LIFSpec | None = None,
    implementation: Implementation = "auto",
) -> Implementation:
    """Return how a neuron computes an input: "fused", "packed" or "loop".

    Args:
        x: the input.
        decay: a decay that is passed.
        spec: the neuron; None is ``LIFSpec()``.
        implementation: what it is asked for.

    Raises:
        ValueError: one that cannot take this input or this neuron; the message says why. So where "auto" gives "loop",
            asking for "fused" tells the reason.

    Example:
        >>> implementation_for(torch.zeros(4, 2))
        'loop'
    """
    if portable.is_recorded(x):
        return "loop"
    engine, keep = _choose(implementation, _PAPER if spec is None else spec, x, decay)
    if engine is None:
        return "loop"
    return "packed" if keep == "bits" else "fused"


def _choose(
    implementation: Implementation, spec: LIFSpec, x: Tensor, decay: Tensor | float | None
) -> tuple[fused.Engine | None, Keep]:
    validation.choice("implementation", implementation, ("auto", "fused", "packed", "loop"))
    if implementation == "loop" or (implementation == "auto" and not _is_worthwhile(x)):
        return None, "input"
    obstacle = _obstacle(spec)
    if obstacle is not None:
        if implementation == "auto":
            return None, "input"
        raise ValueError(
            f"implementation {implementation!r} cannot be made of this neuron: {obstacle}; 'auto' and 'loop' "
            "compute it by tensor operations"
        )
    keep: Keep = "bits" if implementation == "packed" else "input"
    if keep == "bits" and (decay is not None or bits_per_step(spec) is None):
        raise ValueError(
            "implementation 'packed' needs a neuron whose adjoint asks for bits alone: a surrogate that is a "
            "rectangle, a leaky one or straight through; a reset that is detached, soft or none; a decay "
            "that is not learnt; "
            f"got {spec!r}"
        )
    engine = None if torch.compiler.is_compiling() and keep == "bits" else fused.engine_for(x, decay, keep)
    if engine is None and implementation != "auto":
        raise ValueError(
            f"implementation {implementation!r} needs numba and float32, float64 or bfloat16 on the CPU, or Triton on "
            f"CUDA (not for 'packed'); no torch.compile or torch.func, and a scalar decay; got {x.dtype} on {x.device}"
        )
    return engine, keep


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _obstacle(spec: LIFSpec) -> str | None:
    """Return why no loop can be made of a neuron's formula, None where it can."""
    return _recording_error(spec)


@functools.cache
def _recording_error(spec: LIFSpec) -> str | None:
    try:
        step_graph(spec)
    except NotTraceableError as error:
        return str(error)
    return None


def _is_worthwhile(x: Tensor) -> bool:
    large = x.numel() >= fused.LEAST_ELEMENTS
    if torch.compiler.is_compiling():
        # measured: on the CPU the loops beat what inductor makes of a few steps, even fused with batch norm
        return len(x) > MOST_UNROLLED or (large and x.device.type == "cpu")
    return large


def _computed_in(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in _HALF else x.dtype


def _loop(spec: LIFSpec, x: Tensor, state: LIFState | None, decay: Tensor | float | None) -> tuple[Tensor, LIFState]:
    if x.dtype in _HALF:
        # 8 or 11 bits are too few to add up a potential in
        wide = None if state is None else _cast(state, torch.float32)
        output, final = _loop(spec, x.float(), wide, decay)
        return output.to(x.dtype), _cast(final, x.dtype)
    # one unbind: its backward is one stack, where indexing x[t] would add a full-size gradient per step
    steps = x.unbind(0)
    state = initial_state(spec, steps[0]) if state is None else state
    spike = functools.partial(fire, surrogate=spec.surrogate, inclusive=spec.inclusive)
    outputs = []
    for current in steps:
        output, state = dynamics.step(
            spec,
            state,
            current,
            spike=spike,
            detach=_detach,
            sigmoid=torch.sigmoid,
            spread=_spread,
            decay=decay,
        )
        outputs.append(output)
    return torch.stack(outputs), state


def _cast(state: LIFState, dtype: torch.dtype) -> LIFState:
    return LIFState(*(None if part is None else part.to(dtype) for part in state))


def initial_state(spec: LIFSpec, like: Tensor, potential: Tensor | None = None) -> LIFState:
    """Return the state of a neuron that starts afresh: the potential that the spec says, the other parts 0.

    Args:
        spec: the neuron.
        like: one step of its input, ``(batch, ...)``, for shape, dtype and device.
        potential: takes the place of the spec's, as a learnt one does: a scalar, or a tensor that broadcasts.

    Example:
        >>> initial_state(LIFSpec(rest=0.5), torch.zeros(2)).potential.tolist()
        [0.5, 0.5]
    """
    state = LIFState(**{name: torch.full_like(like, value) for name, value in spec.start.items()})
    return state if potential is None else state._replace(potential=potential.to(like.dtype).expand(like.shape))


def _spread(x: Tensor) -> Tensor:
    found: Tensor = dynamics.spread(x, torch)
    return found


def _detach(x: Tensor) -> Tensor:
    return x.detach()
