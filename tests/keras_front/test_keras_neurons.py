"""The neurons as layers; every test runs on whichever backend Keras is set to."""

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import LIFSpec, LIFState, Rectangle, presets
from sbp_core.reference.neuron import adjoint, forward

SPECS = {
    "paper": LIFSpec(),
    "soft, complement": LIFSpec(reset="soft", input_gain="complement", detach_reset=True),
    "current, delayed": LIFSpec(synaptic_decay=0.5, output_delay=1),
    "resets next": presets.snntorch_leaky(beta=0.5),
    "read-out": LIFSpec.leaky_integrator(),
}


def dyadic(shape, seed):
    # multiples of 2^-6: every sum below is exact in float32, so spikes must agree at exact ties too
    return (np.random.default_rng(seed).integers(-96, 160, shape) / 64).astype("float32")


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_layer_runs_the_reference_neuron_over_axis_one(spec):
    x = dyadic((3, 5, 2, 4), seed=0)
    expected, state = forward(spec, np.swapaxes(x, 0, 1))
    output, final = sbp_keras.LIF(spec, return_state=True)(x)
    assert tuple(output.shape) == x.shape
    np.testing.assert_array_equal(numpy(output), np.swapaxes(expected, 0, 1))
    for name in final._fields:
        np.testing.assert_array_equal(numpy(getattr(final, name)), getattr(state, name))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_two_halves_joined_by_the_state_equal_one_run(spec):
    x = dyadic((3, 6, 4), seed=1)
    layer = sbp_keras.LIF(spec)
    whole = numpy(layer(x))
    first, state = sbp_keras.LIF(spec, return_state=True)(x[:, :2])
    second, _ = layer(x[:, 2:], state)
    np.testing.assert_array_equal(np.concatenate([numpy(first), numpy(second)], axis=1), whole)


def test_a_state_may_be_the_cores_or_a_tuple_of_its_parts():
    x, start = dyadic((2, 3, 4), seed=2), dyadic((2, 4), seed=3)
    layer = sbp_keras.LIF()
    expected, _ = forward(LIFSpec(), np.swapaxes(x, 0, 1), LIFState(start))
    for state in (LIFState(ops.convert_to_tensor(start)), (start,)):
        output, final = layer(x, state)
        np.testing.assert_array_equal(numpy(output), np.swapaxes(expected, 0, 1))
        assert final._fields == ("potential",)


def test_a_layer_remembers_nothing_between_calls():
    x = dyadic((2, 3, 4), seed=4)
    layer = sbp_keras.LIF()
    np.testing.assert_array_equal(numpy(layer(x)), numpy(layer(x)))
    assert layer.weights == []


@pytest.mark.parametrize(
    ("layer", "spec"),
    [
        (sbp_keras.LIF, LIFSpec()),
        (sbp_keras.IF, LIFSpec(decay=1.0)),
        (sbp_keras.LeakyIntegrator, LIFSpec(output="potential", reset="none")),
        (sbp_keras.PLIF, LIFSpec(learn_decay=True, input_gain="complement")),
        (sbp_keras.CurrentLIF, LIFSpec(synaptic_decay=0.5)),
        (sbp_keras.CLIF, LIFSpec(complementary_state=True, reset="soft")),
    ],
)
def test_each_kind_has_its_defaults_and_survives_its_configuration(layer, spec):
    assert layer().spec == spec
    made = layer(threshold=0.75, surrogate="triangle", name="neuron", return_state=True)
    assert made.spec == spec.replace(threshold=0.75, surrogate="triangle")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is layer
    assert (again.spec, again.name, again.return_state) == (made.spec, "neuron", True)


def test_the_surrogate_gradient_and_the_learnt_decay_train_as_the_adjoint_says():
    spec = LIFSpec(learn_decay=True, decay=0.5, surrogate=Rectangle(width=2.0))
    x, target = dyadic((4, 5, 3), seed=5), dyadic((4, 5, 3), seed=6)
    inputs = keras.Input((5, 3))
    scaled = keras.layers.Dense(3, use_bias=False, kernel_initializer="identity", name="scale")(inputs)
    model = keras.Model(inputs, sbp_keras.PLIF(spec, name="neuron")(scaled))
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    model.fit(x, target, batch_size=4, epochs=1, verbose=0)

    major = np.swapaxes(x, 0, 1).astype("float64")
    output, _ = forward(spec, major)
    cotangent = 2.0 * (output - np.swapaxes(target, 0, 1)) / x.size
    found = adjoint(spec, major, None, cotangent, LIFState(np.zeros((4, 3))))
    kernel = np.eye(3) - np.einsum("tbi,tbj->ij", major, found.grad_input)
    np.testing.assert_allclose(numpy(model.get_layer("scale").kernel), kernel, rtol=0, atol=1e-6)
    logit = -found.grad_decay * 0.5 * 0.5
    assert abs(found.grad_decay) > 1e-3
    np.testing.assert_allclose(numpy(model.get_layer("neuron").decay_logit), logit, rtol=1e-5)


def test_a_learnt_start_begins_where_the_spec_says_and_trains_as_the_adjoint_says(tmp_path):
    spec = LIFSpec(initial_potential=0.4, rest=-0.1, learn_initial=True, surrogate=Rectangle(width=2.0))
    x, target = dyadic((4, 5, 3), seed=5), dyadic((4, 5, 3), seed=6)
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, sbp_keras.LIF(spec, name="neuron")(inputs))
    np.testing.assert_allclose(numpy(model.get_layer("neuron").initial_potential), 0.4, rtol=1e-6)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    model.fit(x, target, batch_size=4, epochs=1, verbose=0)

    major = np.swapaxes(x, 0, 1).astype("float64")
    output, _ = forward(spec, major)
    cotangent = 2.0 * (output - np.swapaxes(target, 0, 1)) / x.size
    found = adjoint(spec, major, None, cotangent, LIFState(np.zeros((4, 3)))).grad_state.potential.sum()
    assert abs(found) > 1e-3
    learnt = numpy(model.get_layer("neuron").initial_potential)
    np.testing.assert_allclose(learnt, 0.4 - found, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(again.get_layer("neuron").initial_potential), learnt)
    np.testing.assert_array_equal(numpy(again(x)), numpy(model(x)))


def followed(spec, x, start, kept=None):
    """Where a start has moved to, by the reference neuron."""
    major = np.swapaxes(x, 0, 1).astype("float64")
    output, state = forward(spec, major, LIFState(np.full(major.shape[1:], start)))
    fired = output.any(0) if kept is None else (output * kept.T[..., None]).any(0) & kept[:, -1:]
    assert 0 < fired.sum() < fired.size
    return start + 0.1 * (state.potential[fired].mean() - start)


def test_a_start_that_follows_moves_in_training_alone_and_is_saved(tmp_path):
    spec = LIFSpec(initial_potential=0.375, initial_follows=True, surrogate=Rectangle(width=2.0))
    x = dyadic((4, 5, 3), seed=5) - np.float32(0.75)
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, sbp_keras.LIF(spec, name="neuron")(inputs))
    layer = model.get_layer("neuron")
    assert [variable.name for variable in model.variables] == ["running_potential"]
    assert not model.trainable_variables
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    model.fit(x, x, batch_size=4, epochs=2, verbose=0)
    start = followed(spec, x, followed(spec, x, 0.375))
    np.testing.assert_allclose(numpy(layer.running_potential), start, rtol=1e-6)
    # where none fires, with a state, of a frozen layer and in evaluation it stays; and evaluation starts there
    layer(0.0 * x, training=True)
    state, major = dyadic((4, 3), seed=6), np.swapaxes(x, 0, 1)
    output, _ = layer(x, (state,), training=True)
    np.testing.assert_array_equal(numpy(output), np.swapaxes(forward(spec, major, LIFState(state))[0], 0, 1))
    layer.trainable = False
    layer(x, training=True)
    layer.trainable = True
    evaluated = model.predict(x, verbose=0)
    wanted, _ = forward(spec, major.astype("float64"), LIFState(np.full((4, 3), start)))
    np.testing.assert_array_equal(evaluated, np.swapaxes(wanted, 0, 1))
    np.testing.assert_allclose(numpy(layer.running_potential), start, rtol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(again.get_layer("neuron").running_potential), numpy(layer.running_potential))


def test_what_a_mask_leaves_out_takes_no_part_in_what_a_start_follows():
    spec = LIFSpec(initial_follows=True)
    x = dyadic((3, 5, 4), seed=7) - np.float32(0.5)
    kept = np.array([[0, 0, 0, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    layer = sbp_keras.LIF(spec)
    layer(x, training=True, mask=ops.convert_to_tensor(kept))
    expected = followed(spec, x, 0.0, kept)
    np.testing.assert_allclose(numpy(layer.running_potential), expected, rtol=1e-6)
    assert abs(expected - followed(spec, x, 0.0)) > 1e-3


def test_a_learnt_decay_starts_at_the_specs():
    layer = sbp_keras.PLIF(decay=0.8)
    layer.build((None, 4, 3))
    np.testing.assert_allclose(1.0 / (1.0 + np.exp(-numpy(layer.decay_logit))), 0.8, rtol=1e-6)
    assert [weight.name for weight in layer.trainable_weights] == ["decay_logit"]


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float32", "mixed_float16", "mixed_bfloat16"])
def test_the_compute_dtype_comes_out(policy):
    layer = sbp_keras.LIF(learn_decay=True, dtype=policy, return_state=True)
    output, state = layer(np.full((2, 3, 4), 0.75, "float32"))
    wanted = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(output.dtype) == wanted
    assert keras.backend.standardize_dtype(state.potential.dtype) == wanted
    assert layer.decay_logit.dtype == ("float32" if policy.startswith("mixed") else wanted)
    np.testing.assert_array_equal(numpy(ops.cast(output, "float32"))[0, :, 0], [0.0, 1.0, 0.0])


def test_a_state_passes_through_a_functional_model_that_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((3, 4))
    first, state = sbp_keras.CurrentLIF(return_state=True)(inputs)
    second, last = sbp_keras.CurrentLIF()(first, state)
    model = keras.Model(inputs, [second, last.potential, last.current])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = dyadic((2, 3, 4), seed=7)
    spec = LIFSpec.current_based()
    spikes, state = forward(spec, np.swapaxes(x, 0, 1))
    spikes, state = forward(spec, spikes, state)
    for got in (model(x), loaded(x)):
        for a, b in zip(got, [np.swapaxes(spikes, 0, 1), state.potential, state.current], strict=True):
            np.testing.assert_array_equal(numpy(a), b)


def test_a_complementary_state_passes_from_layer_to_layer_of_a_saved_model(tmp_path):
    inputs = keras.Input((3, 4))
    first, state = sbp_keras.CLIF(return_state=True)(inputs)
    second, last = sbp_keras.CLIF()(first, state)
    keras.Model(inputs, [second, last.complementary]).save(tmp_path / "model.keras")
    x, spec = dyadic((2, 3, 4), seed=7), LIFSpec.complementary()
    spikes, state = forward(spec, np.swapaxes(x, 0, 1))
    spikes, state = forward(spec, spikes, state)
    found, memory = keras.models.load_model(tmp_path / "model.keras")(x)
    np.testing.assert_array_equal(numpy(found), np.swapaxes(spikes, 0, 1))
    np.testing.assert_allclose(numpy(memory), state.complementary, rtol=1e-6)


def test_batch_and_time_may_be_unknown_when_the_model_is_built():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, sbp_keras.LIF()(inputs))
    assert model.output_shape == (None, None, 4)
    for time in (2, 5):
        x = dyadic((3, time, 4), seed=8)
        expected, _ = forward(LIFSpec(), np.swapaxes(x, 0, 1))
        np.testing.assert_array_equal(model.predict(x, verbose=0), np.swapaxes(expected, 0, 1))


def test_bad_input_is_refused():
    layer = sbp_keras.LIF()
    with pytest.raises(ValueError, match=r"\(batch, time, ...\), at least two axes; got shape \(3,\)"):
        layer(np.zeros(3, "float32"))
    with pytest.raises(ValueError, match="at least one time step"):
        layer(np.zeros((2, 0, 3), "float32"))
    with pytest.raises(TypeError, match="floating-point"):
        layer(np.ones((2, 3, 4), "int32"))
    with pytest.raises(ValueError, match="state=None to start afresh when the batch size changes"):
        layer(np.zeros((2, 3, 4), "float32"), (np.zeros((3, 4), "float32"),))
    with pytest.raises(ValueError, match="1 parts for this neuron"):
        layer(np.zeros((2, 3, 4), "float32"), (np.zeros((2, 4), "float32"),) * 2)
    with pytest.raises(ValueError, match="at least two axes"):
        layer(keras.Input(()))


def test_a_bad_neuron_is_refused():
    with pytest.raises(ValueError, match="decay must lie in"):
        sbp_keras.LIF(decay=1.5)
    with pytest.raises(ValueError, match="threshold must be finite"):
        sbp_keras.LIF(threshold=float("nan"))
    with pytest.raises(ValueError, match="surrogate must be one of"):
        sbp_keras.LIF(surrogate="rectangel")
    with pytest.raises(ValueError, match="either a spec or fields"):
        sbp_keras.LIF(LIFSpec(), decay=0.5)
    with pytest.raises(TypeError, match="spec must be a LIFSpec"):
        sbp_keras.LIF(0.5)


def test_the_functional_spike_fires_strictly_above_or_at_zero():
    x = ops.convert_to_tensor(np.array([-0.5, 0.0, 0.5], "float32"))
    np.testing.assert_array_equal(numpy(sbp_keras.spike(x)), [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(numpy(sbp_keras.spike(x, inclusive=True)), [0.0, 1.0, 1.0])
