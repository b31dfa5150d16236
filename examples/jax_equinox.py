"""Train a spiking network written in Equinox on scikit-learn's digits with evolutionary shortcuts, and optax.

pip install ".[jax]" equinox scikit-learn
python examples/jax_equinox.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import sbp_jax
from sbp_core import Evolutionary, LIFSpec
from sbp_jax import branches

EPOCHS, BATCH, TIME_STEPS = 10, 64, 4
NEURON = LIFSpec(threshold=0.5, surrogate="triangle")

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images = images[order].astype(np.float32) / 16
labels = labels[order]
train_images, test_images = images[:1344], images[1344:]
train_labels, test_labels = labels[:1344], labels[1344:]


class Net(eqx.Module):
    """Four spiking layers; it returns its logits, and the spikes of each layer."""

    layers: list[eqx.nn.Linear]
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.layers = [eqx.nn.Linear(inputs, 64, key=key) for inputs, key in zip((64,) * 4, keys[:4], strict=True)]
        self.head = eqx.nn.Linear(64, 10, key=keys[4])

    def __call__(self, images):
        x, taps = jnp.broadcast_to(images, (TIME_STEPS, *images.shape)), {}
        for index, layer in enumerate(self.layers):
            # jax.vmap twice: over time steps and over the batch
            x, _ = sbp_jax.lif(jax.vmap(jax.vmap(layer))(x), NEURON)
            taps[f"layer{index}"] = x
        return jax.vmap(jax.vmap(self.head))(x).mean(0), taps


net = Net(jax.random.key(0))
channels = branches.channels(net, train_images[:1], time_axis=0)
shortcuts = branches.init(jax.random.key(1), {tap: channels[tap] for tap in ("layer0", "layer1", "layer2")}, 10)

steps_per_epoch = len(train_labels) // BATCH
total_steps = EPOCHS * steps_per_epoch
coefficient = Evolutionary(initial=0.25, total_steps=total_steps)
optimizer = optax.adamw(optax.cosine_decay_schedule(0.005, total_steps), weight_decay=0.02)
moments = optimizer.init(eqx.filter((net, shortcuts), eqx.is_array))


@eqx.filter_jit
def train_step(net, shortcuts, moments, images, labels, step):
    @eqx.filter_value_and_grad
    def loss(trained):
        net, shortcuts = trained
        logits, taps = net(images)
        summed = branches.apply(shortcuts, logits, taps, coefficient(step), time_axis=0)  # the step is traced
        return optax.softmax_cross_entropy_with_integer_labels(summed, labels).mean()

    value, gradients = loss((net, shortcuts))
    updates, moments = optimizer.update(gradients, moments, eqx.filter((net, shortcuts), eqx.is_array))
    net, shortcuts = eqx.apply_updates((net, shortcuts), updates)
    return net, shortcuts, moments, value


@eqx.filter_jit
def predict(net, images):
    logits, _ = net(images)  # no branch: what is tapped and not used is not computed
    return logits.argmax(axis=-1)


step = 0
for epoch in range(EPOCHS):
    for rows in jax.random.permutation(jax.random.key(epoch), len(train_labels)).reshape(-1, BATCH):
        step += 1
        batch = train_images[rows], train_labels[rows]
        net, shortcuts, moments, loss = train_step(net, shortcuts, moments, *batch, jnp.asarray(step))
    accuracy = (predict(net, test_images) == test_labels).mean()
    print(f"epoch {epoch + 1}: coefficient {coefficient(step):.3f}, loss {loss:.3f}, test accuracy {accuracy:.1%}")
