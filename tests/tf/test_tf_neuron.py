"""The neuron over time, against a plain loop in NumPy and gradients by hand: eager, traced and compiled."""

import re

import numpy as np
import pytest
import tensorflow as tf

import sbp_tf
from sbp_core import LIFSpec, LIFState
from sbp_core.reference import neuron as reference
from sbp_tf.neuron import UNROLL_UP_TO, implementation_for

MODES = {
    "eager": lambda function: function,
    "function": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
DTYPES = ("float64", "float32", "bfloat16", "float16")
SPECS = {
    "paper": LIFSpec(),
    "inclusive": LIFSpec(inclusive=True),
    "soft": LIFSpec(reset="soft", decay=0.75),
    "rest": LIFSpec(rest=0.25, reset_value=-0.5, threshold=0.75),
    "current": LIFSpec.current_based(synaptic_decay=0.25),
    "complement": LIFSpec(input_gain="complement", decay=0.25),
    "readout": LIFSpec.leaky_integrator(),
}


def loop(x, spec):
    """The neuron one number at a time, for resets now and no delay."""
    gain = 1 - spec.decay if spec.input_gain == "complement" else spec.input_gain
    outputs = np.zeros_like(x)
    for index in np.ndindex(x.shape[1:]):
        potential, current = spec.rest, 0.0
        for t in range(len(x)):
            c = x[(t, *index)]
            current = c if spec.synaptic_decay is None else spec.synaptic_decay * current + c
            potential = spec.rest + spec.decay * (potential - spec.rest) + gain * current
            fires = potential >= spec.threshold if spec.inclusive else potential > spec.threshold
            outputs[(t, *index)] = potential if spec.output == "potential" else float(fires)
            if fires and spec.reset == "hard":
                potential = spec.reset_value
            elif fires and spec.reset == "soft":
                potential -= spec.threshold
    return outputs


def dyadic(shape=(5, 2, 3), seed=1):
    # multiples of 1/4 up to 1.5: sums are exact in every dtype for a few steps, and ties happen
    return np.random.default_rng(seed).integers(-1, 7, shape) / 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SPECS)
def test_it_fires_where_a_plain_loop_does(name, mode):
    x = dyadic()
    output, _ = MODES[mode](lambda x: sbp_tf.lif(x, SPECS[name]))(tf.constant(x))
    assert output.numpy().tolist() == loop(x, SPECS[name]).tolist()


def test_the_drawn_input_meets_the_threshold_exactly_somewhere():
    assert loop(dyadic(), SPECS["paper"]).tolist() != loop(dyadic(), SPECS["inclusive"]).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_goes_in_in_a_dtype_comes_out_in_it(dtype):
    x = tf.constant(dyadic((3, 2, 3)), dtype)
    spec = LIFSpec(synaptic_decay=0.5, output_delay=1, learn_decay=True)
    for mode in MODES.values():
        output, state = mode(lambda x: sbp_tf.lif(x, spec, decay=tf.constant(0.5)))(x)
        assert {output.dtype.name} | {part.dtype.name for part in state if part is not None} == {dtype}


def test_half_precision_fires_where_a_plain_loop_does():
    x = dyadic((3, 2, 3))
    for dtype in ("bfloat16", "float16"):
        output, _ = sbp_tf.lif(tf.constant(x, dtype))
        assert tf.cast(output, tf.float64).numpy().tolist() == loop(x, LIFSpec()).tolist()


def test_a_run_in_two_parts_is_the_run_in_one():
    x = tf.constant(dyadic((6, 2, 3)))
    spec = LIFSpec(synaptic_decay=0.5, output_delay=1)
    whole, last = sbp_tf.lif(x, spec)
    first, middle = sbp_tf.lif(x[:2], spec)
    second, final = sbp_tf.lif(x[2:], spec, middle)
    assert tf.concat([first, second], 0).numpy().tolist() == whole.numpy().tolist()
    for part in spec.state_parts:
        assert getattr(last, part).numpy().tolist() == getattr(final, part).numpy().tolist()


def test_a_fresh_state_is_at_rest():
    state = sbp_tf.initial_state(LIFSpec(rest=0.5, synaptic_decay=0.5), tf.ones((1, 2), tf.float16))
    assert state.potential.numpy().tolist() == [[0.5, 0.5]]
    assert state.current.numpy().tolist() == [[0.0, 0.0]]
    assert state.spikes is None


def gradients(function, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(*inputs)
    return [gradient.numpy().ravel().tolist() for gradient in tape.gradient(value, inputs)]


def test_the_gradient_through_two_steps_is_the_one_by_hand():
    # H1 = 0.75 stays silent, H2 = 1.125 fires; the rectangle is 1 at both. dV1/dH1 = (1 - S1) - H1 g = 0.25
    x = tf.constant([[0.75], [0.75]], tf.float64)
    assert gradients(lambda x: tf.reduce_sum(sbp_tf.lif(x)[0]), x) == [[1.0 + 0.5 * 0.25, 1.0]]
    detached = LIFSpec(detach_reset=True)
    assert gradients(lambda x: tf.reduce_sum(sbp_tf.lif(x, detached)[0]), x) == [[1.0 + 0.5 * 1.0, 1.0]]


def test_the_reset_is_not_detached_by_default():
    x = tf.constant([[0.75], [0.75]], tf.float64)
    detached = LIFSpec(detach_reset=True)
    assert gradients(lambda x: tf.reduce_sum(sbp_tf.lif(x)[0]), x) != gradients(
        lambda x: tf.reduce_sum(sbp_tf.lif(x, detached)[0]), x
    )


def test_a_learnt_decay_gets_the_gradient_by_hand():
    # dS2/dw = g * V1 * decay (1 - decay) = 1 * 0.75 * 0.25
    logit, x = tf.Variable(0.0, dtype=tf.float64), tf.constant([[0.75], [0.75]], tf.float64)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(sbp_tf.lif(x, LIFSpec(learn_decay=True), decay=tf.sigmoid(logit))[0])
    assert float(tape.gradient(value, logit)) == 0.1875


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["paper", "current", "delayed"])
def test_an_unknown_number_of_steps_gives_the_same_values_and_gradients(name, compiled):
    spec = (SPECS | {"delayed": LIFSpec(output_delay=1, surrogate="arctan")})[name]
    x = tf.constant(dyadic())
    weight = tf.constant(np.random.default_rng(2).normal(size=x.shape))

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output, state = sbp_tf.lif(x, spec)
            value = tf.reduce_sum(output * weight[: tf.shape(x)[0]]) + tf.reduce_sum(state.potential)
        return output, tape.gradient(value, x)

    looped = tf.function(run, input_signature=[tf.TensorSpec((None, None, 3), tf.float64)], jit_compile=compiled)
    for part in (x, x[:2]):
        for found, wanted in zip(looped(part), run(part), strict=True):
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-14, atol=1e-15)
    assert looped.experimental_get_tracing_count() == 1
    with pytest.raises(tf.errors.InvalidArgumentError):
        looped(x[:0])


def test_an_unknown_batch_keeps_the_loop_unrolled_and_the_shape_known():
    traced = tf.function(lambda x: sbp_tf.lif(x), input_signature=[tf.TensorSpec((4, None, 3))]).get_concrete_function()
    output, state = traced.structured_outputs
    assert output.shape.as_list() == [4, None, 3]
    assert state.potential.shape.as_list() == [None, 3]
    assert not [node.op for node in traced.graph.as_graph_def().node if "While" in node.op]


def test_vectorized_map_gives_each_its_own_run_and_gradient():
    x = tf.constant(dyadic((4, 3, 2, 2)), tf.float32)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(sbp_tf.lif(x, LIFSpec(surrogate="arctan"))[0] * x)
        return tape.gradient(value, x)

    spikes = tf.vectorized_map(lambda x: sbp_tf.lif(x)[0], x)
    assert spikes.numpy().tolist() == tf.stack([sbp_tf.lif(one)[0] for one in x]).numpy().tolist()
    np.testing.assert_allclose(
        tf.vectorized_map(gradient, x).numpy(), tf.stack([gradient(one) for one in x]).numpy(), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"reset": "soft", "reset_timing": "next", "synaptic_decay": 0.4},
        {"reset_timing": "next", "output_delay": 1, "input_gain": "complement"},
        {"output_delay": 1, "synaptic_decay": 0.4},
        {"reset": "none", "output": "potential"},
        {"reset": "soft", "complementary_state": True, "input_gain": "complement"},
    ],
    ids=str,
)
def test_gradients_of_input_state_and_decay_are_the_adjoint_by_hand(fields, compiled):
    spec = LIFSpec(
        **({"decay": 0.7, "threshold": 0.9, "rest": 0.1, "reset_value": -0.2, "surrogate": "gaussian"} | fields)
    )
    random = np.random.default_rng(3)

    def parts():
        return {
            "potential": random.normal(0.3, 0.5, (2, 3)),
            **({"current": random.normal(0.0, 0.5, (2, 3))} if spec.synaptic_decay is not None else {}),
            **({"spikes": random.uniform(0.0, 1.0, (2, 3))} if spec.stores_spikes else {}),
            **({"complementary": random.uniform(0.0, 2.0, (2, 3))} if spec.complementary_state else {}),
        }

    x, start, output_cotangent, state_cotangent = (
        random.normal(0.6, 0.8, (4, 2, 3)),
        parts(),
        random.normal(size=(4, 2, 3)),
        parts(),
    )

    def run(x, start, decay):
        inputs = [x, start, decay]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output, final = sbp_tf.lif(x, spec, LIFState(**start), decay=decay)
            value = tf.reduce_sum(output * output_cotangent)
            for name, cotangent in state_cotangent.items():
                value += tf.reduce_sum(getattr(final, name) * cotangent)
        return output, tape.gradient(value, inputs)

    function = tf.function(run, jit_compile=True) if compiled else run
    output, (grad_x, grad_start, grad_decay) = function(
        tf.constant(x), {name: tf.constant(part) for name, part in start.items()}, tf.constant(0.6, tf.float64)
    )
    wanted = reference.adjoint(spec, x, LIFState(**start), output_cotangent, LIFState(**state_cotangent), decay=0.6)
    close = {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(output.numpy(), wanted.output, **close)
    np.testing.assert_allclose(grad_x.numpy(), wanted.grad_input, **close)
    np.testing.assert_allclose(float(grad_decay), wanted.grad_decay, **close)
    for name, found in grad_start.items():
        np.testing.assert_allclose(found.numpy(), getattr(wanted.grad_state, name), **close)


STEP = tf.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sbp_tf.lif(tf.ones(3)), ValueError, r"at least two axes; got shape \(3,\)"),
        (lambda: sbp_tf.lif(tf.ones((0, 2))), ValueError, r"at least one time step, got shape \(0, 2\)"),
        (lambda: sbp_tf.lif(tf.ones((3, 2), tf.int32)), TypeError, "floating-point numbers.*int32; cast it first"),
        (lambda: sbp_tf.lif(tf.ones((4, 5, 3)), state=LIFState(STEP)), ValueError, "when the batch size changes"),
        (lambda: sbp_tf.lif(tf.ones((4, 2, 3), tf.float64), state=LIFState(STEP)), TypeError, "dtype of x, float64"),
        (lambda: sbp_tf.lif(tf.ones((4, 2, 3)), state=STEP), TypeError, "state must be a LIFState or None"),
        (lambda: sbp_tf.lif(tf.ones((4, 2, 3)), state=LIFState(STEP, STEP)), ValueError, "state.current must be None"),
        (lambda: sbp_tf.lif(tf.ones((4, 2, 3)), decay=tf.ones(4)), ValueError, "decay must broadcast to one step"),
        (lambda: sbp_tf.lif(tf.ones((4, 2, 3)), decay=1.7), ValueError, r"decay must lie in \[0, 1\], got 1.7"),
        (lambda: sbp_tf.lif(tf.ones((4, 2, 3)), "triangle"), TypeError, "spec must be a LIFSpec, got 'triangle'"),
        (lambda: sbp_tf.lif(tf.ones((4, 2, 3)), time_axis=2), ValueError, "time_axis must be 0"),
        (lambda: sbp_tf.lif(tf.ones(3), time_axis=1), ValueError, r"\(batch, time, ...\), at least two axes"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_unknown_rank_is_named_while_tracing():
    traced = tf.function(lambda x: sbp_tf.lif(x)[0], input_signature=[tf.TensorSpec(None)])
    with pytest.raises(ValueError, match="x must have a known rank"):
        traced(tf.ones((4, 2, 3)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["paper", "soft", "rest", "current", "complement", "readout"])
def test_a_loop_and_unrolled_steps_give_the_same(name, mode):
    x, spec = tf.constant(np.random.default_rng(3).normal(0.5, 0.6, (7, 2, 3))), SPECS[name]
    weight, decay = tf.constant(np.random.default_rng(4).normal(size=x.shape)), tf.constant(0.625, tf.float64)

    def run(x, decay, implementation):
        with tf.GradientTape() as tape:
            tape.watch([x, decay])
            output, state = sbp_tf.lif(x, spec, decay=decay, implementation=implementation)
            value = tf.reduce_sum(output * weight) + tf.reduce_sum(tf.sin(state.potential))
        return output, state.potential, *tape.gradient(value, [x, decay])

    looped, wanted = (MODES[mode](lambda x, d, i=i: run(x, d, i))(x, decay) for i in ("loop", "unrolled"))
    for found, one in zip(looped, wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), one.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("implementation", ["unrolled", "loop"])
def test_time_in_second_place_gives_what_time_in_first_place_gives(implementation, mode):
    x, spec = tf.constant(np.random.default_rng(3).normal(0.5, 0.6, (4, 2, 3))), SPECS["current"]
    weight = tf.constant(np.random.default_rng(4).normal(size=x.shape))
    start = LIFState(tf.fill((2, 3), tf.constant(0.3, tf.float64)), tf.fill((2, 3), tf.constant(0.1, tf.float64)))

    def run(x, weight, time_axis):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output, state = sbp_tf.lif(x, spec, start, implementation=implementation, time_axis=time_axis)
            value = tf.reduce_sum(output * weight) + tf.reduce_sum(tf.sin(state.potential))
        return output, tape.gradient(value, x), state.potential

    def swap(y):
        return tf.transpose(y, [1, 0, 2])

    first = MODES[mode](lambda x, weight: run(x, weight, 0))(x, weight)
    second = MODES[mode](lambda x, weight: run(x, weight, 1))(swap(x), swap(weight))
    for found, wanted in zip((swap(second[0]), swap(second[1]), second[2]), first, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-13, atol=1e-15)


def test_the_implementation_can_be_asked_for_and_is_automatic_otherwise():
    short, long = tf.ones((UNROLL_UP_TO, 2)), tf.ones((UNROLL_UP_TO + 1, 2))
    found = []

    @tf.function(input_signature=[tf.TensorSpec((None, 2))])
    def unknown(x):
        found.append(implementation_for(x))
        found.extend(implementation_for(known) for known in (short, long))
        return x

    unknown(short)
    assert found == ["loop", "unrolled", "loop"]
    assert implementation_for(long) == "unrolled"  # eagerly
    assert implementation_for(short, "loop") == "loop"
    with pytest.raises(ValueError, match="implementation must be one of 'auto', 'unrolled', 'loop'; got 'fused'"):
        sbp_tf.lif(short, implementation="fused")
    with pytest.raises(ValueError, match=r"'unrolled' needs a known number of time steps, got shape \(None, 2\)"):
        tf.function(lambda x: sbp_tf.lif(x, implementation="unrolled")).get_concrete_function(tf.TensorSpec((None, 2)))


def test_xla_makes_one_pass_of_batch_norm_and_neuron():
    x, one, zero = tf.ones((4, 5, 3, 3, 6)), tf.Variable(tf.ones(6)), tf.Variable(tf.zeros(6))
    run = tf.function(
        lambda x: sbp_tf.lif(tf.nn.batch_normalization(x, zero, one, zero, one, 1e-5))[0], jit_compile=True
    )
    text = run.experimental_get_compiler_ir(x)(stage="optimized_hlo")
    whole = re.findall(r"= f32\[4,5,3,3,6\]\S* (\w+)\(", text[text.index("ENTRY") :])
    assert whole == ["parameter", "fusion"]


def test_the_loop_keeps_no_intermediate_of_its_steps_for_the_backward_pass():
    x = tf.random.normal((64, 8, 32), seed=1)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(sbp_tf.lif(x)[0])
        return tape.gradient(value, x)

    traced = tf.function(gradient).get_concrete_function(x)
    graph = traced.graph.as_graph_def()
    operations = {node.op for node in graph.node}
    operations |= {node.op for function in graph.library.function for node in function.node_def}
    assert operations & {"While", "StatelessWhile"}
    # TensorFlow pushes what a loop's own gradient needs on stacks
    assert not operations & {"TensorListPushBack", "TensorListPushBackBatch"}
    assert np.any(traced(x).numpy())
