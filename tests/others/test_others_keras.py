"""keras.applications, random weights: a ShortcutModel round each is what a composition by hand computes, in float64."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import pytest

import sbp_keras

if keras.backend.backend() != "jax":
    pytest.skip("the gradients by hand are JAX's: run with KERAS_BACKEND=jax", allow_module_level=True)

CLASSES, BATCH, COEFFICIENT = 10, 2, 0.3
NETS = {
    "keras.applications MobileNetV2": ("MobileNetV2", ("block_2_add", "block_5_add")),
    "keras.applications ResNet-50": ("ResNet50", ("conv2_block3_out", "conv4_block1_out")),
    "keras.applications ConvNeXt-Tiny": (
        "ConvNeXtTiny",
        ("convnext_tiny_stage_0_block_2_identity", "convnext_tiny_stage_1_block_0_identity"),
    ),
}


def cell(mode):
    return [pytest.param(*net, marks=pytest.mark.matrix(name, "Keras", mode), id=name) for name, net in NETS.items()]


def built(name, taps):
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float64")
    try:
        net = getattr(keras.applications, name)(
            weights=None, classes=CLASSES, input_shape=(32, 32, 3), classifier_activation=None
        )
        model = sbp_keras.ShortcutModel(
            net, taps=list(taps), num_classes=CLASSES, time_axis=None, coefficient=COEFFICIENT
        )
    finally:
        keras.config.set_floatx("float32")
    x = 255 * np.random.default_rng(0).uniform(size=(BATCH, 32, 32, 3))
    return net, model, x


def values(variables):
    return [variable.value for variable in variables]


def loss_of(model, run, x):
    """Return loss and gradient of the trainable variables of ``model``, ``run`` in training on ``x``."""
    state = values(model.non_trainable_variables)
    labels = np.arange(BATCH)

    def loss(weights):
        pairs = [
            *zip(model.trainable_variables, weights, strict=True),
            *zip(model.non_trainable_variables, state, strict=True),
        ]
        with keras.StatelessScope(state_mapping=pairs):
            logits = run(x)
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True).mean()

    return jax.jit(jax.value_and_grad(loss))(values(model.trainable_variables))


@pytest.mark.parametrize(("name", "taps"), cell("training = by hand"))
def test_a_training_step_is_the_composition_by_hand(name, taps):
    with jax.enable_x64(True):
        net, model, x = built(name, taps)
        tapped = keras.Model(net.inputs, [net.output, *(net.get_layer(tap).output for tap in taps)])

        def by_hand(x):
            logits, *blocks = tapped(x, training=True)
            for branch, block in zip(model.branches, blocks, strict=True):
                logits += COEFFICIENT * (block.mean((1, 2)) @ branch.kernel + branch.bias)
            return logits

        keras.utils.set_random_seed(3)  # dropout
        value, gradient = loss_of(model, lambda x: model(x, training=True), x)
        keras.utils.set_random_seed(3)
        wanted, wanted_gradient = loss_of(model, by_hand, x)
    np.testing.assert_allclose(value, wanted, rtol=1e-9)
    for variable, a, b in zip(model.trainable_variables, gradient, wanted_gradient, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, err_msg=variable.path)


@pytest.mark.parametrize(("name", "taps"), cell("evaluation = bare"))
def test_evaluation_is_the_bare_networks(name, taps):
    net, model, x = built(name, taps)
    np.testing.assert_array_equal(np.asarray(model(x)), np.asarray(net(x)))


@pytest.mark.parametrize(("name", "taps"), cell("strip"))
def test_strip_gives_back_the_very_network(name, taps):
    net, model, _ = built(name, taps)
    assert model.strip() is net


@pytest.mark.parametrize(("name", "taps"), cell("save and load"))
def test_a_saved_wrapper_gives_what_it_gave(name, taps, tmp_path):
    _, model, x = built(name, taps)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(np.asarray(again(x)), np.asarray(model(x)), rtol=1e-6)


@pytest.mark.parametrize(("name", "taps"), cell("export"))
def test_the_stripped_network_saves_as_a_plain_keras_file(name, taps, tmp_path):
    net, model, x = built(name, taps)
    model.strip().save(tmp_path / "net.keras")
    assert "sbp" not in keras.saving.load_model(tmp_path / "net.keras").to_json()
    np.testing.assert_allclose(
        np.asarray(keras.saving.load_model(tmp_path / "net.keras")(x)), np.asarray(net(x)), rtol=1e-6
    )
