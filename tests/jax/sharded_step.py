"""Prints the loss and the gradients' norms of one training step: on one device, and with the batch over two."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import sbp_jax
from sbp_core import ResNetSpec

spec = ResNetSpec(depths=(1, 1), widths=(4, 4), in_channels=1, time_steps=2)
rng = np.random.default_rng(37)
images, labels = jnp.asarray(rng.normal(0.5, 1, (8, 6, 6, 1)), jnp.float32), jnp.asarray(rng.integers(0, 10, 8))


@nnx.jit
def step(model, images, labels, coefficient):
    def loss(model):
        logits = model(images, coefficient=coefficient)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    return value, nnx.to_pure_dict(gradients), nnx.state(model, nnx.BatchStat)


def run(place, place_batch):
    net = sbp_jax.ResNet(spec, rngs=nnx.Rngs(0))
    model = sbp_jax.Shortcut(net, ("layer1.0.conv2", "layer1"), sample=images, rngs=nnx.Rngs(1))
    graph, state = nnx.split(model)
    model = nnx.merge(graph, jax.device_put(state, place))
    value, gradients, statistics = step(model, *jax.device_put((images, labels), place_batch), jnp.float32(0.25))
    norms = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves((gradients, statistics))]
    return [float(value), *norms]


# automatic axes: flax reshapes frames into one batch, which axes that are explicit in types do not allow
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
everywhere, over_batch = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
one = jax.devices()[0]
print(json.dumps({"devices": jax.device_count(), "one": run(one, one), "two": run(everywhere, over_batch)}))
