"""Training over two devices is training over one; TensorFlow's strategy, and Keras's own distribution on JAX.

It needs a process that has two devices from its start, as test_keras_backends.py starts one: on JAX
``XLA_FLAGS=--xla_force_host_platform_device_count=2`` makes them, on TensorFlow this file does where
``SBP_TEST_DEVICES=2`` says so.
"""

import contextlib
import os

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import Evolutionary
from sbp_core.specs.losses import LossSpec

SPECS = {
    "logits": LossSpec(combine="logits"),
    "losses of every step, distilled": LossSpec(per_step=True, level_weight=0.3, distillation=0.5),
}


def over_tensorflows_mirrors():
    import tensorflow as tf

    if os.environ.get("SBP_TEST_DEVICES") == "2":
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [half, half])
    if len(tf.config.list_logical_devices("CPU")) < 2:
        pytest.skip("one device: test_keras_backends.py starts one with SBP_TEST_DEVICES=2")
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()


def over_jax_devices():
    devices = keras.distribution.list_devices()
    if len(devices) < 2:
        pytest.skip("one device: XLA_FLAGS=--xla_force_host_platform_device_count=2 makes two")
    return keras.distribution.DataParallel(devices=devices[:2]).scope()


OVER_TWO = {"tensorflow": over_tensorflows_mirrors, "jax": over_jax_devices}


def trained(spec):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 6))
    hidden = keras.layers.Dense(8, kernel_initializer=keras.initializers.RandomNormal(stddev=0.8))(inputs)
    net = keras.Model(inputs, sbp_keras.Readout(3)(sbp_keras.LIF(surrogate="triangle", name="layer1")(hidden)))
    model = sbp_keras.ShortcutModel(net, ["layer1"], 3, loss_spec=spec)
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 4, 6)).astype("float32"), rng.integers(0, 3, 24)
    callbacks = [sbp_keras.ShortcutCallback(Evolutionary(initial=1.0))]
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks).history
    return model, history


@pytest.mark.matrix("functional", f"Keras on {keras.backend.backend()}", "over 2 devices")
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_two_devices_train_as_one_does(spec):
    if keras.backend.backend() not in OVER_TWO:
        pytest.skip("left to PyTorch: Keras distributes on TensorFlow and JAX")
    over_two = OVER_TWO[keras.backend.backend()]()
    one, alone = trained(spec)
    with contextlib.ExitStack() as stack:
        stack.enter_context(over_two)
        two, together = trained(spec)
        assert int(ops.convert_to_numpy(two.step)) == 6
    # XLA multiplies by 1 / 6 where it could divide
    assert together["coefficient"] == alone["coefficient"] == pytest.approx([0.5, 0.0], abs=1e-7)
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=0, atol=1e-5)
    for first, second in zip(one.weights, two.weights, strict=True):
        found = np.asarray(ops.convert_to_numpy(second))
        np.testing.assert_allclose(found, ops.convert_to_numpy(first), rtol=0, atol=1e-5, err_msg=first.path)
