"""Train in PyTorch, save one safetensors file, and go on in JAX and in Keras: the loss falls all along.

Needs torch, jax with flax and optax, keras with tensorflow, and scikit-learn: pip install "sbp[torch,jax,tf,lab]"
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch
from flax import nnx
from sklearn.datasets import load_digits

import sbp_jax
import sbp_keras
import sbp_torch
from sbp_core import network_spec

digits = load_digits()
images = (digits.images[:512].astype("float32") - 8.0) / 6.0
labels = digits.target[:512]
EPOCHS, BATCH = 4, 64
batches = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
spec = network_spec("convnet", in_channels=1, time_steps=4)
folder = Path(tempfile.mkdtemp())

# PyTorch: a shortcut while it trains
torch.manual_seed(0)
net = sbp_torch.Network(spec)
model = sbp_torch.Shortcut(net, "stages", 10)
optimizer = torch.optim.Adam(model.parameters(), 0.01)
losses = []
for _ in range(EPOCHS):
    for batch in batches:
        optimizer.zero_grad()
        logits = model(torch.from_numpy(images[batch, None]))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
print(f"PyTorch: loss {np.mean(losses[:8]):.3f} to {np.mean(losses[-8:]):.3f}")
sbp_torch.save(folder / "torch.safetensors", net.eval())

# JAX goes on from the same weights, with the same logits
taken = sbp_jax.load(folder / "torch.safetensors")
taken.eval()
there = taken(jnp.asarray(images[:64, ..., None]))
with torch.no_grad():
    here = net(torch.from_numpy(images[:64, None])).numpy()
print(f"JAX: logits differ by {np.abs(np.asarray(there) - here).max():.1e}")
taken.train()
adam = nnx.Optimizer(taken, optax.adam(0.01), wrt=nnx.Param)


@nnx.jit
def step(net: sbp_jax.Network, adam: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    def objective(net: sbp_jax.Network) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

    loss, gradients = nnx.value_and_grad(objective)(net)
    adam.update(net, gradients)
    return loss


losses = [
    float(step(taken, adam, jnp.asarray(images[batch, ..., None]), jnp.asarray(labels[batch])))
    for _ in range(EPOCHS)
    for batch in batches
]
print(f"JAX: loss {np.mean(losses[:8]):.3f} to {np.mean(losses[-8:]):.3f}")
taken.eval()
sbp_jax.save(folder / "jax.safetensors", taken)

# Keras too
last = sbp_keras.load(folder / "jax.safetensors", (8, 8, 1))
there = keras.ops.convert_to_numpy(last(images[:64, ..., None], training=False))
print(f"Keras: logits differ by {np.abs(there - np.asarray(taken(jnp.asarray(images[:64, ..., None])))).max():.1e}")
last.compile(
    keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
)
history = last.fit(images[..., None], labels, BATCH, EPOCHS, verbose=0).history
print(f"Keras: loss {history['loss'][0]:.3f} to {history['loss'][-1]:.3f}, accuracy {history['accuracy'][-1]:.2f}")
