"""The fused loops give what the tensor operations give: outputs and states bit for bit, gradients to rounding."""

import pytest
import torch

from sbp_core import LIFSpec, LIFState
from sbp_core.specs.surrogates import FAMILIES
from sbp_torch import LIF, lif
from sbp_torch.kernels import fused, numba_loops
from sbp_torch.kernels.source import generate
from sbp_torch.neuron import implementation_for

SEED = 20261123
pytestmark = pytest.mark.skipif(not fused.available(), reason="numba is not installed")

# each reset, timing, delay, synapse, detaching and learnt decay, and every surrogate, at least once
NEURONS = {
    family: LIFSpec(
        decay=0.7,
        threshold=0.9,
        rest=0.1,
        reset_value=-0.2,
        reset=("hard", "soft", "none")[i % 3],
        reset_timing=("now", "next")[i // 3 % 2],
        output_delay=(0, 1)[i % 2],
        detach_reset=i % 4 == 1,
        synaptic_decay=0.4 if i % 3 == 1 else None,
        learn_decay=i % 5 == 2,
        input_gain="complement" if i % 5 == 2 else 0.8,
        inclusive=i % 4 == 2,
        surrogate=family,
    )
    for i, family in enumerate(FAMILIES)
}


def results(spec, x, state, decay, implementation):
    """Return the outputs, and their gradients with fixed cotangents."""
    output, final = lif(x, spec, state, decay=decay, implementation=implementation)
    outputs = [output, *(part for part in final if part is not None)]
    inputs = [value for value in (x, decay, *(state or ())) if value is not None]
    generator = torch.Generator().manual_seed(SEED)
    given = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in outputs]
    return outputs, torch.autograd.grad(outputs, inputs, given, allow_unused=True)


@pytest.mark.parametrize("family", NEURONS)
def test_fused_equals_tensor_operations_over_the_neuron_family(family):
    spec = NEURONS[family]
    torch.manual_seed(SEED)
    x = (torch.randn(6, 3, 5, 4, dtype=torch.float64) + 0.5).requires_grad_()
    parts = {name: torch.rand(3, 5, 4, dtype=torch.float64, requires_grad=True) for name in spec.state_parts}
    decay = torch.tensor(0.6, dtype=torch.float64, requires_grad=True) if spec.learn_decay else None
    looped, expected = results(spec, x, LIFState(**parts), decay, "loop")
    outputs, gradients = results(spec, x, LIFState(**parts), decay, "fused")
    for got, want in zip(outputs, looped, strict=True):
        assert torch.equal(got, want)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_fused_equals_tensor_operations_with_a_complementary_state(reset):
    spec = LIFSpec.complementary(reset=reset, rest=0.1, learn_decay=True, output_delay=1, surrogate="arctan")
    torch.manual_seed(SEED)
    x = (torch.randn(9, 3, 700, dtype=torch.float64) + 0.5).requires_grad_()
    parts = {name: torch.rand(3, 700, dtype=torch.float64, requires_grad=True) for name in spec.state_parts}
    decay = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    looped, expected = results(spec, x, LIFState(**parts), decay, "loop")
    outputs, gradients = results(spec, x, LIFState(**parts), decay, "fused")
    assert torch.equal(outputs[0], looped[0])
    for got, want in zip((*outputs, *gradients), (*looped, *expected), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    assert implementation_for(torch.zeros(9, 4096), spec=spec) == "fused"
    with pytest.raises(ValueError, match="'packed' needs a neuron whose adjoint asks for bits alone"):
        implementation_for(x, spec=spec, implementation="packed")


def test_a_width_that_follows_is_declined_by_name_and_computed_by_tensor_operations():
    spec = LIFSpec(width_follows=True)
    assert implementation_for(torch.zeros(4, 1 << 15), spec=spec) == "loop"
    with pytest.raises(
        ValueError, match="the spread of a layer's potentials, which width_follows needs; 'auto' and 'l"
    ):
        implementation_for(torch.zeros(2, 3), spec=spec, implementation="fused")
    x = torch.randn(4, 8, 8192, generator=torch.Generator().manual_seed(SEED)).requires_grad_()
    small = x.detach()[:, :1, :64].clone().requires_grad_()
    for given in (x, small):
        lif(given, spec)[0].sum().backward()
        width = 2 * given[0].std(correction=0).item()
        assert given.grad[-1].max().item() == pytest.approx(1 / width, rel=0.2)


def test_fused_keeps_channels_last_memory_and_its_values():
    torch.manual_seed(SEED)
    x = torch.randn(3, 2, 4, 5, 6).permute(0, 1, 4, 2, 3).requires_grad_()
    (output,), (gradient,) = (part[:1] for part in results(LIFSpec(), x, None, None, "fused"))
    (want,), (expected,) = (part[:1] for part in results(LIFSpec(), x, None, None, "loop"))
    assert output.stride() == x.stride()
    assert torch.equal(output, want)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "slices", [(slice(None), slice(0, 2)), (slice(None, None, 2),)], ids=["cut", "strided in time"]
)
def test_fused_takes_input_that_is_not_contiguous(slices):
    torch.manual_seed(SEED)
    x = torch.randn(6, 5, 7)[slices].requires_grad_()
    outputs, gradients = results(LIFSpec(), x, None, None, "fused")
    looped, expected = results(LIFSpec(), x, None, None, "loop")
    assert torch.equal(outputs[0], looped[0])
    torch.testing.assert_close(gradients[0], expected[0], rtol=1e-6, atol=1e-6)


def test_a_gradient_of_the_gradient_equals_that_of_tensor_operations():
    spec = LIFSpec(surrogate="arctan")
    torch.manual_seed(SEED)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def second(implementation):
        output, _ = lif(x, spec, implementation=implementation)
        (first,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    expected = second("loop")
    assert expected.abs().max() > 0
    torch.testing.assert_close(second("fused"), expected, rtol=1e-12, atol=1e-12)


def test_a_gradient_of_the_gradient_passes_where_the_output_depends_on_nothing():
    spec = LIFSpec(output_delay=1, reset="none")  # the first output is of the state at rest
    for implementation in ("loop", "fused"):
        x = torch.full((1, 3), 0.5, requires_grad=True)
        output, state = lif(x, spec, implementation=implementation)
        if implementation == "fused":
            (nothing,) = torch.autograd.grad(output.sum(), x, create_graph=True, allow_unused=True)
            assert nothing is None or not nothing.any()
        (gradient,) = torch.autograd.grad((state.potential**2).sum(), x, create_graph=True)
        assert torch.autograd.grad(gradient.sum(), x)[0].tolist() == [[2.0] * 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gain", ["complement", 1.0])
def test_a_decay_given_as_a_number_gives_the_same_bits_whatever_computes_it(dtype, gain):
    torch.manual_seed(SEED)
    x = torch.randn(5, 400).to(dtype)
    for decay in (0.1, 0.9, 1.0 / 3.0):
        looped, compiled = (
            lif(x, LIFSpec(input_gain=gain, threshold=0.4), decay=decay, implementation=how)
            for how in ("loop", "fused")
        )
        assert torch.equal(looped[0], compiled[0])
        assert torch.equal(looped[1].potential, compiled[1].potential)


def test_an_empty_batch_and_an_unused_state_gradient_pass():
    x = torch.zeros(3, 0, 4, requires_grad=True)
    output, state = lif(x, implementation="fused")
    (gradient,) = torch.autograd.grad(output.sum() + state.potential.sum(), x)
    assert output.shape == gradient.shape == (3, 0, 4)


def test_auto_takes_the_fused_loops_for_large_cpu_input_alone():
    large, small = torch.zeros(4, fused.LEAST_ELEMENTS), torch.zeros(4, 8)
    assert implementation_for(large) == "fused"
    assert implementation_for(small) == "loop"
    assert implementation_for(large.bfloat16()) == "fused"
    assert implementation_for(large.half()) == "loop"
    assert implementation_for(large, torch.zeros(fused.LEAST_ELEMENTS)) == "loop"
    seen = []
    torch.func.vmap(lambda value: seen.append(implementation_for(value)) or value)(large[:, None])
    assert seen == ["loop"]


def test_without_a_compiler_auto_takes_tensor_operations(monkeypatch):
    monkeypatch.setattr(fused, "ENGINES", ())
    large = torch.zeros(4, fused.LEAST_ELEMENTS)
    assert implementation_for(large) == "loop"
    assert LIF()(large).shape == large.shape


def test_what_is_asked_for_can_be_seen():
    x = torch.zeros(2, 3)
    assert implementation_for(x, implementation="fused") == "fused"
    assert implementation_for(x, spec=LIFSpec(detach_reset=True), implementation="packed") == "packed"
    assert implementation_for(x, implementation="loop") == "loop"


def test_an_implementation_that_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match="implementation must be one of 'auto', 'fused', 'packed', 'loop'; got 'fast'"):
        lif(torch.zeros(2, 3), implementation="fast")
    with pytest.raises(ValueError, match=r"'fused' needs numba.*got torch\.float16 on cpu"):
        LIF(implementation="fused")(torch.zeros(2, 3, dtype=torch.float16))


@pytest.mark.parametrize("family", ["rectangle", "leaky_rectangle"])
@pytest.mark.parametrize("steps", [2, 64])
def test_the_backward_keeps_the_input_alone_whatever_t(family, steps):
    kept = []
    x = torch.zeros(steps, 8, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        lif(x, NEURONS[family].replace(learn_decay=False), implementation="fused")
    assert [value is x or value.data_ptr() == x.data_ptr() for value in kept] == [True]


def test_a_step_expanded_over_time_is_kept_once_and_gets_the_whole_gradient():
    torch.manual_seed(SEED)
    image = torch.randn(3, 5, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        output, _ = lif(image.expand(6, -1, -1, -1, -1), implementation="fused")
    assert [value.untyped_storage().nbytes() for value in kept] == [image.numel() * 4]
    cotangent = torch.randn(output.shape)
    looped, _ = lif(image.expand(6, -1, -1, -1, -1), implementation="loop")
    assert torch.equal(output, looped)
    (got,), (want,) = (torch.autograd.grad(value, image, cotangent) for value in (output, looped))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_many_steps_and_blocks_with_a_remainder_give_the_values_of_tensor_operations():
    torch.manual_seed(SEED)
    x = torch.randn(70, 3, 1103).requires_grad_()
    outputs, gradients = results(LIFSpec.current_based(decay=0.9), x, None, None, "fused")
    looped, expected = results(LIFSpec.current_based(decay=0.9), x, None, None, "loop")
    for got, want in zip(outputs, looped, strict=True):
        assert torch.equal(got, want)
    torch.testing.assert_close(gradients[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectorised_exp_and_tanh_are_right_to_rounding(dtype):
    scope = numba_loops._scope(str(dtype).removeprefix("torch."))
    x = torch.cat([torch.linspace(-87, 20, 4001, dtype=dtype), torch.linspace(-1, 1, 4001, dtype=dtype)])
    exp = torch.tensor([float(scope["exp"](value)) for value in x.numpy()], dtype=torch.float64)
    tanh = torch.tensor([float(scope["tanh"](value)) for value in x.numpy()], dtype=torch.float64)
    ulp = torch.finfo(dtype).eps
    assert (exp / x.double().exp() - 1).abs().max() <= 2 * ulp
    assert (tanh - x.double().tanh()).abs().max() <= 2 * ulp
    assert float(scope["exp"](x.numpy().dtype.type("nan"))) != float(scope["exp"](x.numpy().dtype.type("nan")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exp_overflows_and_underflows_as_it_should(dtype):
    exp = numba_loops._scope(str(dtype).removeprefix("torch."))["exp"]
    ends = (88.0, 88.7, 88.8, -87.5, -95.0, -103.5, -110.0)
    ends = ends if dtype == torch.float32 else (709.0, 709.7, 709.8, -708.5, -720.0, -744.0, -750.0)
    x = torch.tensor([*ends, float("inf"), -float("inf")], dtype=dtype)
    got = torch.tensor([float(exp(value)) for value in x.numpy()], dtype=dtype)
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    torch.testing.assert_close(got, x.exp(), rtol=4 * torch.finfo(dtype).eps, atol=2 * smallest)


def test_generated_source_uses_the_decay_only_if_it_is_learnt():
    assert "decay *" in generate(LIFSpec.parametric()).forward
    assert "decay *" not in generate(LIFSpec()).forward
