"""Training that is stopped and resumed."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization

import sbp_jax
from sbp_core import Evolutionary

RNG = np.random.default_rng(41)
X = jnp.asarray(RNG.normal(0.5, 1, (3, 4, 6)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 0])
COEFFICIENT = Evolutionary(initial=0.5, total_steps=6)


def make():
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(
        nnx.Linear(6, 8, rngs=rngs),
        sbp_jax.BatchNorm(8, rngs=rngs),
        sbp_jax.LIF(threshold=0.25, surrogate="triangle"),
        nnx.Linear(8, 3, rngs=rngs),
        lambda x: x.mean(0),
    )
    model = sbp_jax.Shortcut(net, ("0", "2"), 3, sample=X, rngs=nnx.Rngs(1))
    return model, nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, step):
    def loss(model):
        logits = model(X, coefficient=COEFFICIENT(step)).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def through_pickle(state):
    return pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state)))


def through_msgpack(state):
    def names(tree):
        return {str(key): names(value) for key, value in tree.items()} if isinstance(tree, dict) else tree

    def numbers(tree, like):
        if not isinstance(like, dict):
            return tree
        return {key: numbers(tree[str(key)], value) for key, value in like.items()}

    return numbers(serialization.msgpack_restore(serialization.msgpack_serialize(names(state))), state)


@pytest.mark.matrix("nnx, by path", "JAX", "resumed")
@pytest.mark.parametrize("store", [through_pickle, through_msgpack])
def test_a_resumed_training_is_the_uninterrupted_one_bit_by_bit(store):
    model, optimizer = make()
    for step in range(1, 4):
        train_step(model, optimizer, jnp.asarray(step))
    saved = store(nnx.to_pure_dict(nnx.state((model, optimizer))))
    wanted = [float(train_step(model, optimizer, jnp.asarray(step))) for step in range(4, 7)]

    resumed = make()
    state = nnx.state(resumed)
    nnx.replace_by_pure_dict(state, saved)
    nnx.update(resumed, state)
    assert [float(train_step(*resumed, jnp.asarray(step))) for step in range(4, 7)] == wanted
    final, reached = (jax.tree.leaves(nnx.state(pair)) for pair in ((model, optimizer), resumed))
    for got, leaf in zip(reached, final, strict=True):
        np.testing.assert_array_equal(got, leaf)
