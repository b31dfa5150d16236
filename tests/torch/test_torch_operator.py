"""Many steps under torch.compile: one operator in the graph, not an unrolled loop; the same results."""

import pytest
import torch

from sbp_core import LIFSpec, LIFState
from sbp_torch import LIF, PLIF, lif
from sbp_torch.kernels import fused

SEED = 20261126
STEPS = 20
pytestmark = pytest.mark.skipif(not fused.available(), reason="numba is not installed")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def graphs_of(function):
    """Return the function compiled without inductor, and the list of its graphs' operators."""
    seen = []

    def backend(module, inputs):
        seen.append([str(node.target) for node in module.graph.nodes if node.op == "call_function"])
        return torch._dynamo.backends.debugging.aot_eager(module, inputs)

    return torch.compile(function, backend=backend, fullgraph=True, dynamic=False), seen


def test_many_steps_are_one_operator_and_few_are_unrolled():
    compiled, seen = graphs_of(LIF())
    compiled(torch.zeros(STEPS, 2, 3))
    compiled(torch.zeros(4, 2, 3))
    assert sum("sbp" in name for name in seen[0]) == 1
    assert len(seen[0]) < STEPS
    assert not any("sbp" in name for name in seen[1])


def test_large_input_on_the_cpu_is_one_operator_at_any_number_of_steps():
    compiled, seen = graphs_of(LIF())
    x = torch.randn(2, fused.LEAST_ELEMENTS)
    assert torch.equal(compiled(x), LIF(implementation="loop")(x))
    assert sum("sbp" in name for name in seen[0]) == 1


def test_the_operator_gives_the_results_of_tensor_operations():
    torch.manual_seed(SEED)
    neuron = PLIF(synaptic_decay=0.4, surrogate="arctan")
    x = torch.randn(STEPS, 3, 8).requires_grad_()
    state = LIFState(torch.rand(3, 8, requires_grad=True), torch.rand(3, 8, requires_grad=True))

    def results(module):
        output, final = module(x, state)
        outputs = [output, final.potential, final.current]
        inputs = [x, state.potential, state.current, neuron.decay_logit]
        loss = sum((value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in outputs)
        return outputs, torch.autograd.grad(loss, inputs)

    outputs, gradients = results(graphs_of(neuron)[0])
    neuron.implementation = "loop"
    looped, expected = results(neuron)
    for got, want in zip(outputs, looped, strict=True):
        assert torch.equal(got, want)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_channels_last_input_stays_so_in_a_graph():
    torch.manual_seed(SEED)
    x = torch.randn(STEPS, 2, 4, 5, 6).permute(0, 1, 4, 2, 3).requires_grad_()
    compiled, _ = graphs_of(lambda x: lif(2.0 * x)[0] * 3.0)
    output = compiled(x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    want = lif(2.0 * x, implementation="loop")[0] * 3.0
    (expected,) = torch.autograd.grad(want.square().sum(), x)
    assert output.stride() == x.stride()
    assert torch.equal(output, want)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_another_spec_is_another_graph_and_the_same_one_is_not():
    neuron = LIF()
    compiled, seen = graphs_of(neuron)
    x = torch.full((STEPS, 1, 1), 0.75)
    assert compiled(x).sum() == compiled(x + 0.0).sum() == lif(x)[0].sum()
    assert len(seen) == 1
    neuron.spec = LIFSpec(threshold=0.5)
    assert compiled(x).sum() == lif(x, neuron.spec)[0].sum() != lif(x)[0].sum()


def test_transforms_inside_a_graph_do_not_meet_the_operator():
    x = torch.randn(STEPS, 4, 2, 3)
    compiled, seen = graphs_of(lambda x: torch.func.vmap(lambda one: lif(one)[0], in_dims=1, out_dims=1)(x))
    assert torch.equal(compiled(x), lif(x)[0])
    assert not any("sbp" in name for graph in seen for name in graph)
