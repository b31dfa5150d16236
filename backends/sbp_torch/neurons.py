"""Spiking neurons as modules: the time loop is inside, over the leading axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sbp_core import dynamics
from sbp_core.inputs import check_input
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_torch.neuron import Implementation, initial_state, run


class LIF(nn.Module):
    """The canonical neuron over time, ``(time, batch, ...)`` to the same shape (equations: :class:`~sbp_core.LIFSpec`).

    It remembers nothing: each call starts afresh unless a state is passed. The defaults are the neuron of Guo et al.
    2024, Eq. 1-3. A learnt decay is the scalar parameter ``decay_logit``, with ``decay = sigmoid(decay_logit)``; a
    learnt start is ``initial_potential``. A start that follows is the scalar buffer ``running_potential``: each call in
    training moves it, but one that is given a state, which neither uses nor moves it. A call may then not be computed
    a second time in the backward pass, as ``torch.utils.checkpoint`` does: it would start from what it has moved.

    Args:
        spec: the neuron; or give the spec's fields as keywords instead.
        implementation: see :func:`sbp_torch.lif`; the results are the same.
        **fields: fields of :class:`~sbp_core.LIFSpec`.

    Raises:
        ValueError: both a spec and fields, or a field out of range.
        TypeError: not a LIFSpec, or an unknown field.

    Example:
        >>> neuron = LIF(decay=0.5, surrogate="triangle")
        >>> neuron(torch.full((3, 1), 0.75)).flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    decay_logit: nn.Parameter | None
    initial_potential: nn.Parameter | None
    running_potential: Tensor | None
    _defaults: ClassVar[Callable[..., LIFSpec]] = LIFSpec

    def __init__(self, spec: LIFSpec | None = None, *, implementation: Implementation = "auto", **fields: Any) -> None:
        super().__init__()
        self.implementation: Implementation = implementation
        if spec is not None and fields:
            raise ValueError(f"give either a spec or fields, got spec={spec!r} and {', '.join(sorted(fields))}")
        if spec is not None and not isinstance(spec, LIFSpec):
            raise TypeError(f"spec must be a LIFSpec, got {spec!r} of type {type(spec).__name__}")
        self.spec: LIFSpec = spec if spec is not None else type(self)._defaults(**fields)
        self.register_parameter("decay_logit", None)
        if self.spec.learn_decay:
            self.decay_logit = nn.Parameter(torch.tensor(math.log(self.spec.decay / (1.0 - self.spec.decay))))
        self.register_parameter("initial_potential", None)
        if self.spec.learn_initial:
            self.initial_potential = nn.Parameter(torch.tensor(self.spec.start["potential"]))
        follows = self.spec.initial_follows
        self.register_buffer("running_potential", torch.tensor(self.spec.start["potential"]) if follows else None)

    def forward(
        self, x: Tensor, state: LIFState | None = None, *, return_state: bool = False
    ) -> Tensor | tuple[Tensor, LIFState]:
        """Run the neuron over the leading axis of ``x``.

        Args:
            x: input, ``(time, batch, ...)``, floating.
            state: where it starts; None for afresh.
            return_state: return the last state too; a call that is given a state always does.

        Returns:
            The output in the shape and dtype of ``x``, or that and the last state.

        Raises:
            ValueError: a wrong shape, no time step, or a state that does not fit.
            TypeError: integers, or a state of another dtype.
        """
        decay = None if self.decay_logit is None else torch.sigmoid(self.decay_logit)
        wants_state = return_state or state is not None
        first = self.initial_potential if self.running_potential is None else self.running_potential
        moves = self.training and state is None and self.running_potential is not None
        if state is None and first is not None:
            check_input(x.shape, str(x.dtype))
            state = initial_state(self.spec, x[0], first)
        output, final = run(self.spec, x, state, decay, self.implementation, wants_state=wants_state or moves)
        if moves and final is not None:
            self._follow(final.potential, output)
        return (output, final) if wants_state and final is not None else output

    @torch.no_grad()
    def _follow(self, potential: Tensor, output: Tensor) -> None:
        if self.running_potential is None:
            return
        dtype = self.running_potential.dtype
        sums = self.over_processes(torch.stack(dynamics.ends(potential.to(dtype), output.sum(0).to(dtype), torch)))
        total, count = sums.unbind()
        # replaced: of what is written to it torch.compile (2.13) lets the backward pass read, and in float64 loses it
        self.running_potential = dynamics.follow(self.running_potential, total, count, torch)

    def over_processes(self, sums: Tensor) -> Tensor:
        """Return what a start follows, summed over processes: as it is; whoever trains with several overrides it."""
        return sums

    def extra_repr(self) -> str:
        """Return the spec, for printing."""
        return repr(self.spec)


class IF(LIF):
    """The integrate-and-fire neuron, :class:`LIF` with decay 1 (Guo et al. 2024, Eq. 1 with tau = 1)."""

    _defaults = LIFSpec.integrate_and_fire


class LeakyIntegrator(LIF):
    """A read-out that never fires: :class:`LIF` that gives its potential."""

    _defaults = LIFSpec.leaky_integrator


class PLIF(LIF):
    """The PLIF neuron, which learns its decay, one scalar a layer (Fang et al. 2021; ``LIFSpec.parametric``)."""

    _defaults = LIFSpec.parametric


class CurrentLIF(LIF):
    """A :class:`LIF` neuron whose input passes a decaying synaptic current."""

    _defaults = LIFSpec.current_based


class CLIF(LIF):
    """The CLIF neuron, a second state of which remembers spikes (Huang et al. 2024; ``LIFSpec.complementary``)."""

    _defaults = LIFSpec.complementary
