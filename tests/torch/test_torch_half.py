"""Half precision is computed in float32 and rounded once: spikes are exact, what comes back has the input's dtype."""

import pytest
import torch

from sbp_core import LIFSpec
from sbp_torch import LIF, lif
from sbp_torch.kernels import numba_loops

SEED = 20261125
SPECS = {
    "slow": LIFSpec(decay=0.99, input_gain=0.01, surrogate="arctan"),
    "synapse": LIFSpec.current_based(reset="soft", surrogate="sigmoid"),
    "read-out": LIFSpec.leaky_integrator(decay=0.9),
}


needs_numba = pytest.mark.skipif(not numba_loops.available(), reason="numba is not installed")
WAYS = [
    *((name, "loop", dtype) for name in SPECS for dtype in (torch.float16, torch.bfloat16)),
    pytest.param("synapse", "fused", torch.bfloat16, marks=needs_numba),
]


@pytest.mark.parametrize(("name", "implementation", "dtype"), WAYS)
def test_half_precision_is_float32_rounded_once(name, implementation, dtype):
    torch.manual_seed(SEED)
    x = (torch.randn(100, 3, 70) + 0.6).to(dtype).requires_grad_()
    cotangent = torch.randn(100, 3, 70).to(dtype)
    output, state = lif(x, SPECS[name], implementation=implementation)
    (gradient,) = torch.autograd.grad(output, x, cotangent)
    wide = x.detach().float().requires_grad_()
    want, want_state = lif(wide, SPECS[name], implementation=implementation)
    (wanted,) = torch.autograd.grad(want, wide, cotangent.float())
    assert output.dtype == state.potential.dtype == gradient.dtype == dtype
    assert torch.equal(output, want.to(dtype))
    assert torch.equal(state.potential, want_state.potential.to(dtype))
    assert torch.equal(gradient, wanted.to(dtype))


def test_small_inputs_add_up_in_bfloat16():
    # in bfloat16 itself the potential would stall at 0.5, where 2^-10 is less than half a unit in the last place
    neuron = LIF(decay=1.0, reset="none", output="potential")
    x = torch.full((1024, 1), 2.0**-10, dtype=torch.bfloat16)
    assert neuron(x)[-1].item() == 1.0


@needs_numba
def test_the_bfloat16_loops_keep_the_input_as_it_is_and_pass_nan():
    x = torch.randn(4, 2, 30, dtype=torch.bfloat16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        output, _ = lif(x, implementation="fused")
    assert [value.nbytes for value in kept] == [x.nbytes]
    (gradient,) = torch.autograd.grad(output, x, torch.full_like(output, float("nan")))
    assert gradient.isnan().any()
