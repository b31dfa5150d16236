"""The neuron over time, against a loop in plain NumPy and the reference's adjoint."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sbp_jax
from sbp_core import LIFSpec, LIFState, Triangle
from sbp_core.reference import neuron
from sbp_jax.neuron import UNROLL_UP_TO, implementation_for

RNG = np.random.default_rng(20)
LOOPED = UNROLL_UP_TO + 3


def plain_lif(x, decay, threshold):
    """Guo et al. 2024, Eq. 1-3, one number at a time."""
    spikes, potentials = np.zeros_like(x), np.zeros(x.shape[1:], x.dtype)
    for position in np.ndindex(x.shape[1:]):
        u = x.dtype.type(0)
        for t in range(x.shape[0]):
            u = decay * u + x[(t, *position)]
            if u > threshold:
                spikes[(t, *position)] = 1
                u = x.dtype.type(0)
        potentials[position] = u
    return spikes, potentials


@pytest.mark.parametrize("steps", [1, UNROLL_UP_TO, LOOPED])
@pytest.mark.parametrize("compiled", [False, True])
def test_it_spikes_as_a_plain_loop_does(steps, compiled):
    # multiples of 2^-6: every sum is exact, so ties with the threshold are ties in both
    x = (RNG.integers(-32, 96, (steps, 3, 4)) / 64).astype(np.float32)
    function = jax.jit(sbp_jax.lif) if compiled else sbp_jax.lif
    output, state = function(x)
    spikes, potential = plain_lif(x, np.float32(0.5), np.float32(1.0))
    np.testing.assert_array_equal(output, spikes)
    np.testing.assert_array_equal(state.potential, potential)


def test_a_potential_that_equals_the_threshold_fires_only_when_inclusive():
    x = jnp.array([[0.5], [0.75]])  # 0.5 * 0.5 + 0.75 = 1
    assert sbp_jax.lif(x)[0].ravel().tolist() == [0, 0]
    assert sbp_jax.lif(x, LIFSpec(inclusive=True))[0].ravel().tolist() == [0, 1]


SPECS = {
    "paper": LIFSpec(surrogate="triangle"),
    "detached": LIFSpec(surrogate="triangle", detach_reset=True),
    "soft": LIFSpec(decay=0.75, reset="soft", surrogate="arctan"),
    "next": LIFSpec(decay=0.75, reset_timing="next", reset_value=0.25, surrogate="arctan"),
    "delayed": LIFSpec(output_delay=1, surrogate="sigmoid"),
    "current": LIFSpec.current_based(rest=0.125, surrogate="fast_sigmoid"),
    "complement": LIFSpec(input_gain="complement", threshold=0.25, surrogate="gaussian"),
    "readout": LIFSpec.leaky_integrator(),
}


@pytest.mark.parametrize("steps", [3, LOOPED])
@pytest.mark.parametrize("name", SPECS)
def test_gradients_are_those_of_the_adjoint_derived_by_hand(name, steps):
    spec = SPECS[name]
    x, cotangent = RNG.normal(0.5, 0.6, (steps, 2, 3)), RNG.normal(size=(steps, 2, 3))

    def part(present):
        return RNG.normal(size=(2, 3)) if present else None

    def state():
        return LIFState(part(True), part(spec.synaptic_decay is not None), part(spec.stores_spikes))

    start, last_cotangent, decay = state(), state(), 0.625
    found = neuron.adjoint(spec, x, start, cotangent, last_cotangent, decay=decay)
    with jax.enable_x64(True):

        def weighted(x, start, decay):
            output, last = sbp_jax.lif(x, spec, start, decay=decay)
            parts = zip(jax.tree.leaves(last), jax.tree.leaves(last_cotangent), strict=True)
            return (output * cotangent).sum() + sum((part * weight).sum() for part, weight in parts), output

        arguments = jax.tree.map(jnp.asarray, (x, start, decay))
        gradients, output = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(*arguments)
        assert {leaf.dtype.name for leaf in jax.tree.leaves((gradients, output))} == {"float64"}
    np.testing.assert_allclose(output, found.output, rtol=1e-13, atol=0)
    expected = jax.tree.leaves((found.grad_input, found.grad_state, found.grad_decay))
    for got, wanted in zip(jax.tree.leaves(gradients), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("name", SPECS)
def test_a_sequence_in_two_pieces_is_the_sequence(name):
    x = jnp.asarray(RNG.normal(0.5, 0.6, (LOOPED, 2, 3)), jnp.float32)
    whole, last = sbp_jax.lif(x, SPECS[name])
    first, state = sbp_jax.lif(x[:2], SPECS[name])
    second, end = sbp_jax.lif(x[2:], SPECS[name], state)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-6)
    for got, wanted in zip(jax.tree.leaves(end), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_forward_mode_agrees_with_reverse_mode():
    x, direction = jnp.asarray(RNG.normal(0.5, 0.6, (2, 4, 2, 3)), jnp.float32)
    spec = SPECS["paper"]
    _, along = jax.jvp(lambda x: sbp_jax.lif(x, spec)[0].sum(), (x,), (direction,))
    gradient = jax.grad(lambda x: sbp_jax.lif(x, spec)[0].sum())(x)
    np.testing.assert_allclose(along, (gradient * direction).sum(), rtol=1e-5)


def test_vmap_and_gradient_of_vmap_are_a_loop_over_the_mapped_axis():
    x = jnp.asarray(RNG.normal(0.5, 0.6, (5, 4, 2, 3)), jnp.float32)
    decays = jnp.linspace(0.1, 0.9, 5)

    def total(x, decays):
        outputs = jax.vmap(lambda x, decay: sbp_jax.lif(x, SPECS["paper"], decay=decay)[0])(x, decays)
        return (outputs * jnp.arange(4.0)[:, None, None]).sum(), outputs

    def alone(x, decay):
        output = sbp_jax.lif(x, SPECS["paper"], decay=decay)[0]
        return (output * jnp.arange(4.0)[:, None, None]).sum(), output

    mapped, outputs = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(x, decays)
    one_by_one = jax.jit(jax.grad(alone, argnums=(0, 1), has_aux=True))
    for index in range(5):
        single, output = one_by_one(x[index], decays[index])
        np.testing.assert_array_equal(outputs[index], output)
        np.testing.assert_allclose(mapped[0][index], single[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(mapped[1][index], single[1], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtype_in_is_dtype_out_in_output_state_and_gradient(dtype):
    spec = LIFSpec(
        synaptic_decay=0.7, output_delay=1, rest=0.1, reset_value=0.2, input_gain=0.3, surrogate=Triangle(width=1.5)
    )
    with jax.enable_x64(dtype == "float64"):
        x = jnp.ones((LOOPED, 2), dtype)
        (output, state), pull = jax.vjp(lambda x: sbp_jax.lif(x, spec, decay=jnp.float32(0.5)), x)
        gradients = pull(jax.tree.map(jnp.ones_like, (output, state)))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((output, state, gradients))} == {dtype}


def test_a_fresh_state_is_the_one_it_starts_from():
    spec = LIFSpec(rest=0.25, synaptic_decay=0.5, output_delay=1)
    x = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
    fresh = sbp_jax.initial_state(spec, x[0])
    assert [getattr(fresh, part).tolist() for part in spec.state_parts] == [[0.25, 0.25], [0, 0], [0, 0]]
    np.testing.assert_array_equal(sbp_jax.lif(x, spec)[0], sbp_jax.lif(x, spec, fresh)[0])


X = jnp.ones((4, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((jnp.ones(3),), {}, ValueError, r"\(time, batch, ...\)"),
        ((jnp.ones((0, 2)),), {}, ValueError, "at least one time step"),
        ((jnp.ones((3, 2), int),), {}, TypeError, "floating-point"),
        ((X, "triangle"), {}, TypeError, r"spec must be a LIFSpec, got 'triangle'.*a surrogate goes into one"),
        ((X,), {"decay": 1.7}, ValueError, r"decay must lie in \[0, 1\], got 1.7"),
        ((X, None, LIFState(jnp.ones((5, 3)))), {}, ValueError, "batch size changes"),
        ((X, None, LIFState(jnp.ones((2, 3), jnp.float16))), {}, TypeError, "dtype of x"),
        ((X, None, jnp.ones((2, 3))), {}, TypeError, "state must be a LIFState"),
        ((X, LIFSpec.current_based(), LIFState(jnp.ones((2, 3)))), {}, ValueError, "state.current must be an array"),
        ((X,), {"time_axis": 2}, ValueError, "time_axis must be 0"),
        ((jnp.ones(3),), {"time_axis": 1}, ValueError, r"\(batch, time, ...\)"),
        ((X,), {"decay": 1.5}, ValueError, r"decay must lie in \[0, 1\], got 1.5"),
        ((X,), {"decay": float("nan")}, ValueError, "decay"),
        ((X,), {"decay": jnp.ones(4)}, ValueError, r"broadcast to one step of x, \(2, 3\); got shape \(4,\)"),
        ((X,), {"decay": jnp.ones((4, 2, 3))}, ValueError, "broadcast to one step"),
    ],
)
def test_bad_input_is_refused_traced_or_not(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        sbp_jax.lif(*arguments, **keywords)
    with pytest.raises(error, match=message):
        jax.jit(lambda x: sbp_jax.lif(x, *arguments[1:], **keywords))(arguments[0])


@pytest.mark.parametrize("name", SPECS)
def test_a_scan_and_unrolled_steps_give_the_same(name):
    x, spec = jnp.asarray(RNG.normal(0.5, 0.6, (4, 2, 3)), jnp.float32), SPECS[name]

    def run(implementation):
        def outputs(x, decay):
            return sbp_jax.lif(x, spec, decay=decay, implementation=implementation)

        result, pull = jax.vjp(outputs, x, jnp.float32(0.625))
        return result, pull(jax.tree.map(lambda part: jnp.cos(part) + 1, result))

    for got, wanted in zip(
        *(jax.tree.leaves(jax.jit(run, static_argnums=0)(i)) for i in ("scan", "unrolled")), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["scan", "unrolled"])
def test_time_in_second_place_gives_what_time_in_first_place_gives(implementation):
    x, spec = jnp.asarray(RNG.normal(0.5, 0.6, (4, 2, 3)), jnp.float32), LIFSpec.current_based()
    start = LIFState(jnp.full((2, 3), 0.3), jnp.full((2, 3), 0.1))

    def run(x, time_axis):
        def outputs(x):
            return sbp_jax.lif(x, spec, start, implementation=implementation, time_axis=time_axis)

        (output, state), pull = jax.vjp(outputs, x)
        return output, *pull((jnp.cos(jnp.arange(output.size)).reshape(4, 2, 3).swapaxes(0, time_axis), state)), state

    output, gradient, state = run(x, 0)
    swapped, swapped_gradient, same = run(x.swapaxes(0, 1), 1)
    np.testing.assert_array_equal(swapped.swapaxes(0, 1), output)
    np.testing.assert_allclose(swapped_gradient.swapaxes(0, 1), gradient, rtol=1e-6)
    np.testing.assert_array_equal(same.potential, state.potential)


def test_xla_makes_one_pass_of_batch_norm_and_neuron():
    x, bn = jnp.ones((4, 5, 3, 3, 6), jnp.float32), sbp_jax.BatchNorm(6, rngs=nnx.Rngs(0))
    bn.eval()
    graph, state = nnx.split(bn)
    run = jax.jit(lambda state, x: sbp_jax.lif(nnx.merge(graph, state)(x))[0])
    text = run.lower(state, x).compile().as_text()
    whole = re.findall(r"= f32\[4,5,3,3,6\]\S* (\w+)\(", text[text.index("ENTRY") :])
    assert whole == ["parameter", "fusion"]


@pytest.mark.parametrize("implementation", ["scan", "unrolled"])
def test_an_eager_call_and_its_gradient_compile_once(implementation):
    compiled = []

    def listen(event, seconds, **_):
        compiled.append(event)

    def run(x):
        return jax.grad(lambda x: sbp_jax.lif(x, LIFSpec(), implementation=implementation)[0].sum())(x)

    run(jnp.ones((4, 5, 7), jnp.float32))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run(jnp.ones((4, 5, 7), jnp.float32))  # a new spec, but an equal one
        again = [event for event in compiled if "backend_compile" in event]
        run(jnp.ones((4, 5, 9), jnp.float32))
        other = [event for event in compiled if "backend_compile" in event]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert (again, len(other) > 0) == ([], True)


@pytest.mark.parametrize(("steps", "kept"), [(1, 1), (UNROLL_UP_TO, 1), (64, 2)])
def test_little_is_kept_for_the_backward_pass(steps, kept):
    x = jnp.asarray(RNG.normal(0.5, 0.6, (steps, 8, 32)), jnp.float32)
    _, pull = jax.vjp(lambda x: sbp_jax.lif(x, SPECS["paper"])[0], x)
    floats = sum(leaf.size for leaf in jax.tree.leaves(pull) if leaf.dtype == jnp.float32)
    # the input; a scan keeps the potential before each step too; and the state that it starts from
    assert kept * x.size <= floats <= kept * x.size + 2 * x[0].size


def test_the_implementation_can_be_asked_for_and_is_automatic_otherwise():
    short, long = jnp.ones((UNROLL_UP_TO, 2)), jnp.ones((UNROLL_UP_TO + 1, 2))
    assert [implementation_for(x) for x in (short, long)] == ["unrolled", "scan"]
    assert [implementation_for(x, "scan") for x in (short, long)] == ["scan", "scan"]
    assert "while" in jax.jit(functools.partial(sbp_jax.lif, implementation="scan")).lower(short).as_text()
    assert "while" not in jax.jit(sbp_jax.lif).lower(short).as_text()
    with pytest.raises(ValueError, match="implementation must be one of 'auto', 'unrolled', 'scan'; got 'fused'"):
        sbp_jax.lif(short, implementation="fused")
