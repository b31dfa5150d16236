"""JAX's calibrated start: the oracle's figures and weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sbp_jax
from tests import starts


@pytest.mark.parametrize("name", starts.SPECS)
def test_figures_and_weights_are_the_oracles(name):
    net = nnx.eval_shape(lambda: sbp_jax.Network(starts.SPECS[name], rngs=nnx.Rngs(0)))
    sbp_jax.import_weights(net, starts.WEIGHTS[name])
    model = sbp_jax.Shortcut(net, (next(iter(net.spec.parts)),), 4, rngs=nnx.Rngs(0)) if name == "residual" else net
    graph = nnx.graphdef(net)
    images = jnp.moveaxis(jnp.asarray(starts.images()), 1, -1)
    starts.assert_same(sbp_jax.calibrate(model, images), name)
    held = sbp_jax.export_weights(net)
    for key, value in starts.WEIGHTS[name].items():
        np.testing.assert_array_equal(held[key], starts.oracle(name).after.get(key, value))
    assert nnx.graphdef(net) == graph


def test_another_model_is_refused():
    with pytest.raises(TypeError, match="model must be a Network or a Shortcut of one, got Linear"):
        sbp_jax.calibrate(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.ones((1, 2)))
