"""Neurons that keep bits for the backward: a sixteenth of the input or less, and the very same gradient."""

import pytest
import torch

from sbp_core import LeakyRectangle, LIFSpec, LIFState, Rectangle, StraightThrough
from sbp_torch import LIF, lif
from sbp_torch.kernels import numba_loops
from sbp_torch.kernels.source import bits_per_step

SEED = 20261124
pytestmark = pytest.mark.skipif(not numba_loops.available(), reason="numba is not installed")

# each reset, timing, delay, synapse and box surrogate; compiling is most of the time
PACKED = {
    "paper, detached": (LIFSpec(detach_reset=True), False),
    "soft": (LIFSpec(reset="soft", surrogate=Rectangle(width=0.8), synaptic_decay=0.4), True),
    "next, delayed": (
        LIFSpec(
            decay=0.7,
            threshold=0.9,
            rest=0.1,
            reset_value=-0.2,
            reset_timing="next",
            output_delay=1,
            detach_reset=True,
            surrogate=LeakyRectangle(),
        ),
        True,
    ),
    "delayed past its reset": (LIFSpec(reset="soft", output_delay=1, surrogate=StraightThrough()), False),
}


def kept_by(spec, x, implementation, state=None):
    """Return the outputs, their gradients, and what was kept."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        output, final = lif(x, spec, state, implementation=implementation)
    outputs = [output, *(part for part in final if part is not None)]
    inputs = [x, *(part for part in state or () if part is not None)]
    generator = torch.Generator().manual_seed(SEED)
    given = [torch.randn(value.shape, generator=generator) for value in outputs]
    return outputs, torch.autograd.grad(outputs, inputs, given, allow_unused=True), kept


@pytest.mark.parametrize("name", PACKED)
def test_packed_gives_the_outputs_and_gradients_of_fused_bit_for_bit(name):
    spec, with_state = PACKED[name]
    torch.manual_seed(SEED)
    x = torch.randn(7, 3, 400).requires_grad_()
    state = LIFState(**{name: torch.rand(3, 400, requires_grad=True) for name in spec.state_parts})
    outputs, gradients, kept = kept_by(spec, x, "packed", state if with_state else None)
    expected, wanted, _ = kept_by(spec, x, "fused", state if with_state else None)
    for got, want in zip((*outputs, *gradients), (*expected, *wanted), strict=True):
        assert torch.equal(got, want)
    per_step = bits_per_step(spec)
    assert sum(value.nbytes for value in kept) == 3 * 400 * -(-7 // (8 // per_step))


def test_the_detached_paper_neuron_keeps_a_sixteenth_of_its_input():
    x = torch.randn(8, 2, 100, requires_grad=True)
    _, _, kept = kept_by(LIFSpec(detach_reset=True), x, "packed")
    assert sum(value.nbytes for value in kept) * 16 == x.nbytes


def test_packed_is_refused_where_the_adjoint_needs_the_potential():
    x = torch.zeros(2, 3)
    for spec in (LIFSpec(), LIFSpec(detach_reset=True, surrogate="triangle"), LIFSpec.parametric(detach_reset=True)):
        decay = torch.tensor(0.5) if spec.learn_decay else None
        with pytest.raises(ValueError, match="'packed' needs a neuron whose adjoint asks for bits alone"):
            lif(x, spec, decay=decay, implementation="packed")


def test_a_gradient_of_the_gradient_of_packed_is_refused_and_not_wrong():
    x = torch.randn(3, 4, requires_grad=True)
    output = LIF(LIFSpec(reset="soft"), implementation="packed")(x)
    with pytest.raises(RuntimeError, match="'packed' keeps too little for a gradient of the gradient; use 'fused'"):
        torch.autograd.grad(output.sum(), x, create_graph=True)
