"""Keras's calibrated start: the oracle's figures and weights, on the set backend."""

import keras
import numpy as np
import pytest

import sbp_keras
from tests import starts

IMAGES = np.moveaxis(starts.images(), 1, -1)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    x64 = jax_config = None
    if keras.backend.backend() == "jax" and request.param == "float64":
        import jax

        jax_config, x64 = jax.config, jax.config.jax_enable_x64
        jax_config.update("jax_enable_x64", True)
    yield request.param
    if jax_config is not None:
        jax_config.update("jax_enable_x64", x64)


@pytest.mark.parametrize("name", starts.SPECS)
def test_figures_and_weights_are_the_oracles(name, dtype):
    net = sbp_keras.Network(starts.SPECS[name], (6, 6, 2), dtype=dtype)
    sbp_keras.import_weights(net, starts.weights(name, dtype))
    model = sbp_keras.ShortcutModel(net, ["layer1"], 4) if name == "residual" else net
    found = sbp_keras.calibrate(model, IMAGES.astype(dtype))
    starts.assert_same(found, name, dtype, sbp_keras.export_weights(net))
    assert not any("call" in vars(layer) for layer in net.layers)


def test_what_fails_leaves_the_weights():
    net = sbp_keras.Network(starts.SPECS["residual"], (6, 6, 2))
    before = net.get_weights()
    with pytest.raises(ValueError, match="rates must be"):
        sbp_keras.calibrate(net, IMAGES, rates=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"shape|channels"):
        sbp_keras.calibrate(net, IMAGES[..., :1])
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True))
    with pytest.raises(TypeError, match="model must be a Network or a ShortcutModel of one"):
        sbp_keras.calibrate(keras.Sequential([keras.layers.Dense(2)]), IMAGES)
