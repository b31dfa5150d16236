"""JAX's calibrated start: the oracle's figures and weights."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import sbp_jax
from tests import starts


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", starts.SPECS)
def test_figures_and_weights_are_the_oracles(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        net = nnx.eval_shape(lambda: sbp_jax.Network(starts.SPECS[name], param_dtype=dtype, rngs=nnx.Rngs(0)))
        sbp_jax.import_weights(net, starts.weights(name, dtype))
        tap = next(iter(net.spec.parts))
        model = sbp_jax.Shortcut(net, (tap,), 4, rngs=nnx.Rngs(0)) if name == "residual" else net
        graph = nnx.graphdef(net)
        images = jnp.moveaxis(jnp.asarray(starts.images(), dtype), 1, -1)
        found = sbp_jax.calibrate(model, images)
        starts.assert_same(found, name, dtype, sbp_jax.export_weights(net))
    assert nnx.graphdef(net) == graph


def test_another_model_is_refused():
    with pytest.raises(TypeError, match="model must be a Network or a Shortcut of one, got Linear"):
        sbp_jax.calibrate(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.ones((1, 2)))
