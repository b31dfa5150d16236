"""Train a small spiking ResNet on scikit-learn's digits with evolutionary shortcuts, in JAX: Flax modules and optax.

pip install ".[jax]" scikit-learn
python examples/jax_digits.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import sbp_jax
from sbp_core import Evolutionary, ResNetSpec

EPOCHS, BATCH = 4, 64

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images = images[order].astype(np.float32).reshape(-1, 8, 8, 1) / 16
labels = labels[order]
train_images, test_images = images[:1344], images[1344:]
train_labels, test_labels = labels[:1344], labels[1344:]

spec = ResNetSpec(depths=(1, 1, 1), widths=(8, 16, 32), in_channels=1, num_classes=10, time_steps=4)
net = sbp_jax.ResNet(spec, rngs=nnx.Rngs(0))
model = sbp_jax.Shortcut(net, taps=("layer1", "layer2"), num_classes=10, rngs=nnx.Rngs(1))

steps_per_epoch = len(train_labels) // BATCH
total_steps = EPOCHS * steps_per_epoch
coefficient = Evolutionary(initial=0.25, total_steps=total_steps)
schedule = optax.cosine_decay_schedule(0.01, total_steps)
optimizer = nnx.Optimizer(model, optax.adamw(schedule, weight_decay=0.02), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, images, labels, step):
    def loss(model):
        logits = model(images, coefficient=coefficient(step))  # the step is traced: nothing is compiled again
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


@nnx.jit
def predict(net, images):
    return net(images).argmax(axis=-1)


step = 0
for epoch in range(EPOCHS):
    model.train()
    for rows in jax.random.permutation(jax.random.key(epoch), len(train_labels)).reshape(steps_per_epoch, BATCH):
        step += 1
        loss = train_step(model, optimizer, train_images[rows], train_labels[rows], jnp.asarray(step))
    model.eval()
    accuracy = (predict(model.main, test_images) == test_labels).mean()  # the network alone, without its branches
    print(f"epoch {epoch + 1}: coefficient {coefficient(step):.3f}, loss {loss:.3f}, test accuracy {accuracy:.1%}")
