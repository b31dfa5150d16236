"""JAX's diagnosis: the oracle's figures, and nothing left behind on the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sbp_jax
from sbp_core import Following
from tests import signals


def batches():
    return [(jnp.moveaxis(jnp.asarray(images), 1, -1), labels) for images, labels in signals.batches()]


@pytest.fixture(scope="module")
def net():
    found = nnx.eval_shape(lambda: sbp_jax.Network(signals.SPEC, rngs=nnx.Rngs(0)))
    sbp_jax.import_weights(found, signals.WEIGHTS)
    return found


def test_neurons_are_seen_to_start_from_what_they_followed():
    net = nnx.eval_shape(lambda: sbp_jax.Network(signals.FOLLOWS, rngs=nnx.Rngs(0)))
    sbp_jax.import_weights(net, signals.FOLLOWED)
    signals.assert_same(sbp_jax.diagnose(net, batches(), noise=0.2, seed=5), signals.followed())
    assert net.stem.neuron.running_potential[...] == np.float32(0.3)


def test_figures_are_the_oracles_and_nothing_is_left(net):
    net.eval()
    graph, state = nnx.split(net)
    signals.assert_same(sbp_jax.diagnose(net, batches(), noise=0.2, seed=5))
    signals.assert_same_descent(sbp_jax.diagnose(net, batches(), noise=0.2, seed=5, slopes=3))
    after_graph, after = nnx.split(net)
    assert graph == after_graph
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), state, after)))
    assert type(net.stem.neuron) is sbp_jax.LIF


def test_a_coefficient_follows_the_share_of_the_gradient(net):
    found = sbp_jax.Diagnoser(noise=0.2, seed=5)(net, batches())
    seen = Following(measure="share").seeing(found).signal
    assert seen == pytest.approx(signals.oracle().early_share, rel=1e-4)
    assert 0.1 < seen < 0.9


class Own(nnx.Module):
    """A net of a user's own, that names its last layer first."""

    def __init__(self, rngs):
        self.zero, self.neurons = nnx.Linear(8, 12, rngs=rngs), nnx.List([sbp_jax.LIF(), sbp_jax.LIF()])
        self.middle, self.dropout = nnx.Linear(12, 12, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.after = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(self.neurons[0](5.0 * self.zero(x)))
        return self.after(self.neurons[1](5.0 * self.middle(x)))


def test_a_net_of_ones_own_is_measured_in_the_order_of_its_layers():
    random = np.random.default_rng(0)
    own = [(random.normal(size=(3, 6, 8)).astype("float32"), np.arange(6) % 3) for _ in range(2)]
    net = Own(nnx.Rngs(0))
    found = sbp_jax.diagnose(net, own)
    assert [neuron.path for neuron in found.neurons] == ["neurons.0", "neurons.1"]
    assert [weights.path for weights in found.weights] == ["zero.kernel", "middle.kernel", "after.kernel"]
    assert str(sbp_jax.diagnose(net, own)) == str(found)


def test_a_shortcut_is_measured_with_its_branches(net):
    model = sbp_jax.Shortcut(net, ("layer1",), 4, combine="losses", rngs=nnx.Rngs(1))
    norms = {n.path: n.norm for n in sbp_jax.diagnose(model, batches()[:2], coefficient=50.0).neurons}
    assert norms["main.layer1.0.neuron2"] > 10 * norms["main.layer2.0.neuron2"]


def test_mistakes_are_named():
    with pytest.raises(TypeError, match="model must be an nnx module, got 3"):
        sbp_jax.diagnose(3, batches())

    class Again(Own):
        def __call__(self, x):
            return self.after(self.neurons[0](self.neurons[0](self.zero(x))))

    random = np.random.default_rng(0)
    own = [(random.normal(size=(3, 6, 8)).astype("float32"), np.arange(6) % 3) for _ in range(2)]
    with pytest.raises(ValueError, match=r"neuron 'neurons\.0' is called more than once"):
        sbp_jax.diagnose(Again(nnx.Rngs(0)), own)


def test_one_program_follows_a_model_whose_values_move(net, tmp_path):
    watch = sbp_jax.watch(batches(), every=2, folder=tmp_path, noise=0.2, seed=5)
    look = watch.step(net)
    signals.assert_same(look.found)
    graph, state = nnx.split(net)
    moved = nnx.merge(graph, jax.tree.map(lambda value: value * 1.5, state))
    found = watch.step(moved).found
    assert watch.step(moved) is None
    assert found.loss != look.found.loss
    signals.assert_same(found, sbp_jax.diagnose(moved, batches(), noise=0.2, seed=5))
    # its statistics and its mode stay
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), state, nnx.state(net))))
