"""Spikes, the neuron over time and its modules, against plain loops and cases worked by hand."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch

import sbp_torch
from sbp_core import LIFSpec, LIFState, Rectangle, Sigmoid, presets
from sbp_core.reference.neuron import adjoint, forward
from sbp_core.specs.surrogates import FAMILIES
from sbp_torch.kernels import fused
from sbp_torch.neuron import implementation_for

SEED = 20261123
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def plain_loop(x, given, tau=0.5, threshold=1.0, width=1.0):
    """The paper's neuron and its gradient (Eq. 1-5), written down once more."""
    u, pre, fired = np.zeros_like(x[0]), [], []
    for c in x:
        h = tau * u + c
        o = 1.0 * (h > threshold)
        u = h * (1 - o)
        pre.append(h)
        fired.append(o)
    gradient, du = np.zeros_like(x), np.zeros_like(x[0])
    for t in reversed(range(len(x))):
        g = (np.abs(pre[t] - threshold) < width / 2) / width
        dh = given[t] * g + du * ((1 - fired[t]) - pre[t] * g)
        gradient[t], du = dh, tau * dh
    return np.stack(fired), u, gradient


def test_lif_equals_a_plain_loop_with_the_papers_gradient():
    random = np.random.default_rng(SEED)
    x, given = random.normal(0.7, 0.8, (12, 5, 7)), random.normal(size=(12, 5, 7))
    tensor = torch.tensor(x, requires_grad=True)
    spikes, state = sbp_torch.lif(tensor)
    (spikes * torch.tensor(given)).sum().backward()
    expected, potential, gradient = plain_loop(x, given)
    assert 0.2 < expected.mean() < 0.6
    np.testing.assert_array_equal(spikes.detach().numpy(), expected)
    np.testing.assert_allclose(state.potential.detach().numpy(), potential, rtol=1e-15)
    np.testing.assert_allclose(tensor.grad.numpy(), gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("detach", "first"), [(False, 0.1), (True, 0.5)])
def test_gradient_through_the_reset_worked_by_hand(detach, first):
    # u_pre = 0.8, 1.2; d o2 / d c1 = 0.5 * ((1 - o1) - [0.8 unless detached])
    x = torch.tensor([[0.8], [0.8]], dtype=torch.float64, requires_grad=True)
    spikes, _ = sbp_torch.lif(x, LIFSpec(detach_reset=detach))
    spikes[1].sum().backward()
    assert spikes.flatten().tolist() == [0.0, 1.0]
    np.testing.assert_allclose(x.grad.flatten().numpy(), [first, 1.0], rtol=1e-15)


def test_the_reset_is_hard_by_default():
    _, state = sbp_torch.lif(torch.tensor([[1.75]]))
    assert state.potential.tolist() == [0.0]
    _, state = sbp_torch.lif(torch.tensor([[1.75]]), LIFSpec(reset="soft"))
    assert state.potential.tolist() == [0.75]


@pytest.mark.parametrize(("inclusive", "fired"), [(False, 0.0), (True, 1.0)])
def test_an_exact_tie_fires_only_if_inclusive(inclusive, fired):
    assert sbp_torch.spike(torch.zeros(1), inclusive=inclusive).item() == fired
    assert sbp_torch.lif(torch.ones(1, 1), LIFSpec(inclusive=inclusive))[0].item() == fired


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_spike_is_its_surrogate(family):
    values = np.random.default_rng(SEED).uniform(-2, 2, 50)
    x = torch.tensor(values, requires_grad=True)
    sbp_torch.spike(x, family).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), FAMILIES[family]().derivative(values, np), rtol=1e-14)


def test_double_backward_differentiates_the_surrogate():
    surrogate, values, h = Sigmoid(), np.linspace(-1, 1, 9) + 0.03, 1e-6
    x = torch.tensor(values, requires_grad=True)
    (first,) = torch.autograd.grad(sbp_torch.spike(x, surrogate).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    slope = (surrogate.derivative(values + h, np) - surrogate.derivative(values - h, np)) / (2 * h)
    np.testing.assert_allclose(second.numpy(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "spec",
    [LIFSpec(), LIFSpec.current_based(input_gain="complement"), LIFSpec(output_delay=1), LIFSpec.complementary()],
    ids=["lif", "syn", "delay", "clif"],
)
def test_dtype_in_is_dtype_out(spec, dtype):
    x = torch.linspace(-1, 3, 24).reshape(4, 2, 3).to(dtype).requires_grad_()
    output, state = sbp_torch.lif(x, spec, decay=torch.full((3,), 0.5))
    (gradient,) = torch.autograd.grad(output.sum(), x)
    parts = [part for part in state if part is not None]
    assert {tensor.dtype for tensor in (output, gradient, *parts)} == {dtype}
    assert set(output.unique().tolist()) == {0.0, 1.0}


def test_autocast_leaves_spikes_in_the_dtype_of_their_input():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), sbp_torch.PLIF())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.rand(2, 5, 3)).dtype == torch.bfloat16
        assert sbp_torch.LIF()(torch.rand(2, 5)).dtype == torch.float32


def test_state_carried_between_calls_equals_one_long_call():
    x = torch.tensor(np.random.default_rng(SEED).normal(0.7, 0.6, (10, 2, 3)))
    synaptic = presets.snntorch_synaptic(alpha=0.8, beta=0.9)
    for spec in (LIFSpec(), synaptic, LIFSpec(output_delay=1), LIFSpec.complementary(output_delay=1)):
        whole, last = sbp_torch.lif(x, spec)
        first, state = sbp_torch.lif(x[:4], spec)
        second, end = sbp_torch.lif(x[4:], spec, state)
        assert torch.equal(torch.cat([first, second]), whole)
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(end, last, strict=True))


@pytest.mark.parametrize("implementation", ["loop", "auto"])
def test_time_in_second_place_gives_what_time_in_first_place_gives(implementation):
    x = torch.tensor(np.random.default_rng(SEED).normal(0.7, 0.6, (4, 64, 256)), requires_grad=True)
    weight = torch.tensor(np.random.default_rng(1).normal(size=x.shape))
    spec, start = LIFSpec.current_based(), LIFState(torch.full((64, 256), 0.3).double(), torch.ones(64, 256).double())
    output, state = sbp_torch.lif(x, spec, start, implementation=implementation)
    (gradient,) = torch.autograd.grad((output * weight).sum() + state.potential.sin().sum(), x)
    swapped, same = sbp_torch.lif(x.transpose(0, 1), spec, start, implementation=implementation, time_axis=1)
    value = (swapped * weight.transpose(0, 1)).sum() + same.potential.sin().sum()
    assert torch.equal(swapped.transpose(0, 1), output)
    assert torch.equal(same.potential, state.potential)
    assert torch.equal(torch.autograd.grad(value, x)[0], gradient)


def test_a_second_batch_of_another_size_starts_afresh_and_backward_works_again():
    layer = sbp_torch.PLIF()
    for batch in (3, 5):
        layer(torch.rand(4, batch, 2)).sum().backward()
    assert layer.decay_logit.grad is not None


def test_backward_holds_one_node_for_all_steps_of_the_input():
    # indexing x[t] adds a full-size gradient per step: 14 times slower at T = 100
    spikes, _ = sbp_torch.lif(torch.rand(6, 2, requires_grad=True))
    pending, names, seen = [spikes.grad_fn], [], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.append(node.name())
            pending.extend(parent for parent, _ in node.next_functions)
    assert names.count("UnbindBackward0") == 1
    assert "SelectBackward0" not in names


def test_vmap_and_grad_of_vmap_equal_a_loop():
    x = torch.tensor(np.random.default_rng(SEED).normal(0.7, 0.6, (3, 4, 2, 5)))
    decays = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)

    def objective(x, decay):
        output, state = sbp_torch.lif(x, LIFSpec(surrogate="triangle"), decay=decay)
        return (output.sum(0) ** 2).sum() + state.potential.sum()

    gradient = torch.func.grad(objective, argnums=(0, 1))
    mapped = torch.vmap(gradient)(x, decays)
    single = [gradient(a, b) for a, b in zip(x, decays, strict=True)]
    for part, loop in zip(mapped, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(part, torch.stack(loop), rtol=1e-12, atol=1e-14)
    whole = torch.func.grad(lambda x: torch.vmap(objective)(x, decays).sum())(x)
    torch.testing.assert_close(whole, mapped[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_as_one_graph_equals_eager(backend):
    torch.compiler.reset()
    spec = presets.snntorch_synaptic(alpha=0.75, beta=0.5)
    x = torch.tensor(np.random.default_rng(SEED).normal(0.7, 0.6, (3, 2, 5)), requires_grad=True)
    start = sbp_torch.initial_state(spec, x[0])
    run = functools.partial(sbp_torch.lif, spec=spec)
    compiled = torch.compile(run, fullgraph=True, dynamic=False, backend=backend)
    results = []
    for function in (run, compiled):
        output, state = function(x, state=start)
        (gradient,) = torch.autograd.grad(output.sum() + state.potential.sum(), x)
        results.append((output, state.potential, state.current, gradient))
    for eager, found in zip(*results, strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-14, atol=1e-15)


def test_a_learnt_decay_starts_at_the_specs_and_gets_a_gradient_worked_by_hand():
    layer = sbp_torch.PLIF(decay=0.8, threshold=10.0).double()
    assert torch.sigmoid(layer.decay_logit).item() == pytest.approx(0.8, rel=1e-7)
    assert [name for name, _ in layer.named_parameters()] == ["decay_logit"]
    _, state = layer(torch.tensor([[2.0], [1.0]], dtype=torch.float64), return_state=True)
    state.potential.sum().backward()
    # potential = decay * (1 - decay) * 2 + (1 - decay), and d decay / d w = decay * (1 - decay)
    assert layer.decay_logit.grad.item() == pytest.approx((2 * (1 - 2 * 0.8) - 1) * 0.8 * 0.2, rel=1e-6)


@pytest.mark.parametrize("batch", [2, 8192], ids=["loop", "fused"])
def test_a_start_that_follows_moves_in_training_alone_and_passes_no_gradient_on(batch):
    spec = LIFSpec(decay=0.7, initial_potential=0.375, initial_follows=True, surrogate=Sigmoid())
    layer = sbp_torch.LIF(spec).double()
    assert not list(layer.parameters())
    assert list(layer.state_dict()) == ["running_potential"]
    start = 0.375
    for seed in (0, 1):
        x = np.random.default_rng(seed).normal(0.3, 0.8, (4, batch, 3))
        given = np.random.default_rng(2).normal(size=x.shape)
        found = adjoint(spec, x, LIFState(np.full(x.shape[1:], start)), given, LIFState(np.zeros(x.shape[1:])))
        inputs = torch.from_numpy(x).requires_grad_()
        output = layer(inputs)
        (output * torch.from_numpy(given)).sum().backward()
        np.testing.assert_array_equal(output.detach().numpy(), found.output)
        np.testing.assert_allclose(inputs.grad.numpy(), found.grad_input, rtol=1e-9, atol=1e-12)
        fired = found.output.any(0)
        assert 0 < fired.sum() < fired.size
        start += 0.1 * (found.state.potential[fired].mean() - start)
        assert layer.running_potential.item() == pytest.approx(start, rel=1e-12)
        assert not layer.running_potential.requires_grad
    # where none fires, with a state, and in evaluation it stays; and evaluation starts there
    layer(torch.zeros(4, batch, 3, dtype=torch.float64))
    state = sbp_torch.initial_state(spec, inputs[0].detach())
    assert torch.equal(layer(inputs, state)[0], sbp_torch.lif(inputs, spec)[0])
    layer.eval()
    again = layer(inputs, return_state=True)[1].potential
    wanted = forward(spec, x, LIFState(np.full(x.shape[1:], start)))[1].potential
    np.testing.assert_allclose(again.detach().numpy(), wanted, rtol=1e-12)
    assert layer.running_potential.item() == pytest.approx(start, rel=1e-12)


@pytest.mark.parametrize("shape", [(4, 2, 3), (12, 64, 64)], ids=["unrolled", "operator"])
def test_a_start_that_follows_is_compiled_as_it_is_eager(shape):
    torch.compiler.reset()
    spec = LIFSpec(decay=0.7, rest=0.1, initial_follows=True, surrogate=Sigmoid())
    ours, theirs = (sbp_torch.LIF(spec).double() for _ in range(2))
    compiled = torch.compile(lambda x: ours(1.0 * x), fullgraph=True, dynamic=False)
    for seed in range(3):
        x, y = (torch.from_numpy(np.random.default_rng(seed).uniform(0, 1.5, shape)).requires_grad_() for _ in range(2))
        output, expected = compiled(x), theirs(y)
        output.sum().backward()
        expected.sum().backward()
        assert torch.equal(output, expected)
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.running_potential, theirs.running_potential, rtol=1e-12, atol=0.0)
    assert ours.running_potential > 0.11


def test_a_start_follows_half_precision_in_float32():
    layer = sbp_torch.LIF(LIFSpec(initial_follows=True))
    x = torch.rand(4, 512, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    output, state = layer(x, return_state=True)
    fired = output.any(0)
    assert layer.running_potential.item() == pytest.approx(
        0.1 * state.potential[fired].double().mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("batch", [2, 8192], ids=["loop", "fused"])
def test_a_learnt_start_begins_where_the_spec_says_and_has_the_adjoints_gradient(batch):
    spec = LIFSpec(decay=0.7, rest=-0.1, initial_potential=0.375, learn_initial=True, surrogate=Sigmoid())
    layer = sbp_torch.LIF(spec).double()
    assert [(name, value.item()) for name, value in layer.named_parameters()] == [("initial_potential", 0.375)]
    assert implementation_for(torch.zeros(4, batch, 3)) == ("loop" if batch == 2 or not fused.available() else "fused")
    with torch.no_grad():
        layer.initial_potential.fill_(0.55)
    x = np.random.default_rng(SEED).normal(0.4, 0.8, (4, batch, 3))
    given = np.random.default_rng(1).normal(size=x.shape)
    output = layer(torch.from_numpy(x))
    (output * torch.from_numpy(given)).sum().backward()
    start = LIFState(np.full(x.shape[1:], 0.55))
    found = adjoint(spec, x, start, given, LIFState(np.zeros(x.shape[1:])))
    np.testing.assert_array_equal(output.detach().numpy(), found.output)
    assert layer.initial_potential.grad.item() == pytest.approx(found.grad_state.potential.sum(), rel=1e-9)
    # a state that is passed is where it starts
    output = layer(torch.from_numpy(x), sbp_torch.initial_state(spec, torch.from_numpy(x[0])))[0]
    assert torch.equal(output.detach(), sbp_torch.lif(torch.from_numpy(x), spec)[0])
    with pytest.raises(ValueError, match="at least one time step"):
        layer(torch.zeros(0, 2, 3))


def test_each_kin_has_its_own_defaults():
    assert sbp_torch.LIF().spec == LIFSpec()
    assert sbp_torch.IF().spec == LIFSpec(decay=1.0)
    assert sbp_torch.LeakyIntegrator().spec == LIFSpec(output="potential", reset="none")
    assert sbp_torch.PLIF(threshold=2.0).spec == LIFSpec(learn_decay=True, input_gain="complement", threshold=2.0)
    assert sbp_torch.CurrentLIF().spec == LIFSpec(synaptic_decay=0.5)
    assert sbp_torch.CLIF().spec == LIFSpec(complementary_state=True, reset="soft")
    assert sbp_torch.LIF(decay=0.5, threshold=1.0, surrogate="rectangle").spec == LIFSpec(surrogate=Rectangle())


def test_a_layer_returns_its_state_only_when_asked():
    layer, x = sbp_torch.LIF(), torch.rand(2, 3)
    output, state = layer(x, return_state=True)
    assert torch.equal(layer(x), output)
    assert isinstance(layer(x, state)[1], LIFState)


def test_layers_can_be_copied_and_pickled():
    layer, x = sbp_torch.PLIF(decay=0.7), torch.rand(3, 2)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.spec == layer.spec
        assert torch.equal(twin(x), layer(x))


STATE = LIFState(torch.zeros(3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sbp_torch.lif(torch.rand(3)), ValueError, r"x must have shape \(time, batch, ...\)"),
        (lambda: sbp_torch.lif(torch.rand(0, 3)), ValueError, "at least one time step"),
        (lambda: sbp_torch.lif(torch.ones(2, 3, dtype=torch.int64)), TypeError, "floating-point"),
        (lambda: sbp_torch.lif(torch.rand(2, 4), state=STATE), ValueError, "batch size changes"),
        (lambda: sbp_torch.lif(torch.rand(2, 3).double(), state=STATE), TypeError, "dtype of x"),
        (lambda: sbp_torch.lif(torch.rand(2, 3), state=torch.zeros(3)), TypeError, "state must be a LIFState"),
        (lambda: sbp_torch.lif(torch.rand(2, 3), LIFSpec.current_based(), STATE), ValueError, "state.current"),
        (lambda: sbp_torch.lif(torch.rand(2, 3), time_axis=2), ValueError, "time_axis must be 0"),
        (lambda: sbp_torch.lif(torch.rand(3), time_axis=1), ValueError, r"x must have shape \(batch, time, ...\)"),
        (lambda: sbp_torch.lif(torch.rand(2, 3), 0.5), TypeError, "spec must be a LIFSpec"),
        (lambda: sbp_torch.lif(torch.rand(2, 3), "triangle"), TypeError, "spec must be a LIFSpec, got 'triangle'"),
        (lambda: sbp_torch.lif(torch.rand(2, 3), decay=1.7), ValueError, r"decay must lie in \[0, 1\], got 1.7"),
        (lambda: sbp_torch.lif(torch.rand(2, 40000), decay=-1), ValueError, r"decay must lie in \[0, 1\]"),
        (lambda: sbp_torch.spike(torch.ones(2, dtype=torch.int32)), TypeError, "floating-point"),
        (lambda: sbp_torch.spike(torch.ones(2), "rectangel"), ValueError, "surrogate must be one of"),
        (lambda: sbp_torch.LIF(decay=1.5), ValueError, r"decay must lie in \[0, 1\]"),
        (lambda: sbp_torch.LIF(threshold=float("nan")), ValueError, "threshold must be finite"),
        (lambda: sbp_torch.LIF(LIFSpec(), decay=0.5), ValueError, "either a spec or fields"),
        (lambda: sbp_torch.LIF(0.5), TypeError, "spec must be a LIFSpec"),
        (lambda: sbp_torch.LIF()(torch.rand(3)), ValueError, "x must have shape"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
