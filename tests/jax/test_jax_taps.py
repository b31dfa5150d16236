"""Taps by the path of a module: networks that know nothing of them, through every transformation of JAX and nnx."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sbp_jax
from sbp_jax.taps import Tapped, call_tapped, module_names

RNG = np.random.default_rng(29)
X = jnp.asarray(RNG.normal(0.5, 1, (3, 4, 6)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 0])
TAPS = ("layer1.1", "blocks.0", "parts.first", "pair.1")
COEFFICIENT = jnp.float32(0.3)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.neuron = nnx.Linear(6, 6, rngs=rngs), sbp_jax.LIF(threshold=0.25, surrogate="triangle")

    def __call__(self, x):
        return self.neuron(self.linear(x))


class Net(nnx.Module):
    """A network of a user's own: modules in every kind of container, statistics that move, and no word of taps."""

    def __init__(self, rngs, remat=False):
        self.layer1 = nnx.Sequential(Block(rngs), Block(rngs))
        self.blocks = nnx.List([Block(rngs)])
        self.parts = nnx.Dict(first=Block(rngs))
        self.pair = nnx.data((Block(rngs), nnx.BatchNorm(6, rngs=rngs)))
        self.unused = Block(rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)
        self.remat = remat

    def steps(self, x):
        run = nnx.remat(lambda block, x: block(x)) if self.remat else lambda block, x: block(x)
        yield (x := self.layer1(x))
        yield (x := run(self.blocks[0], x))
        yield (x := run(self.parts["first"], x))
        yield self.pair[1](run(self.pair[0], x))

    def __call__(self, x):
        return self.head(list(self.steps(x))[-1]).mean(0)


def shortcut(net=None, taps=TAPS, **options):
    net = Net(nnx.Rngs(0)) if net is None else net
    return sbp_jax.Shortcut(net, taps, 3, **({"sample": X, "rngs": nnx.Rngs(1)} | options))


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def loss(model, x=X, coefficient=COEFFICIENT):
    return cross_entropy(model(x, coefficient=coefficient))


def by_hand(model, x, coefficient):
    """The composition over what the network's own blocks give, read off step by step."""
    *_, last = tapped = list(model.main.steps(x))
    summed = sum((y @ b.kernel[...] + b.bias[...]).mean(0) for y, b in zip(tapped, model.branches, strict=True))
    return model.main.head(last).mean(0) + coefficient * summed


def assert_equal_trees(got, wanted, **tolerance):
    got, wanted = dict(nnx.to_flat_state(got)), dict(nnx.to_flat_state(wanted))
    assert got.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_allclose(got[path].get_value(), leaf.get_value(), err_msg=str(path), **tolerance)


def test_through_blocks_that_are_computed_again_the_gradient_is_that_of_the_composition_by_hand():
    def cross_entropy_by_hand(model):
        return cross_entropy(by_hand(model, X, COEFFICIENT))

    value, gradients = nnx.jit(nnx.value_and_grad(loss))(shortcut(Net(nnx.Rngs(0), remat=True)))
    expected, gradients_by_hand = nnx.jit(nnx.value_and_grad(cross_entropy_by_hand))(shortcut())
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_equal_trees(gradients, gradients_by_hand, rtol=2e-5, atol=1e-6)
    still = {path[:-1] for path, leaf in nnx.to_flat_state(gradients) if not leaf.get_value().any()}
    assert still == {("main", "unused", "linear")}  # everything else fires, and learns


def test_statistics_of_the_network_move_as_without_taps():
    model, bare = shortcut(), Net(nnx.Rngs(0))
    model(X, coefficient=0.5)
    bare(X)
    assert_equal_trees(nnx.state(model.main, nnx.BatchStat), nnx.state(bare, nnx.BatchStat), rtol=0)
    assert model.main.pair[1].mean[...].any()


def test_attributes_that_a_module_sets_in_a_call_stay_on_the_network():
    class Counting(nnx.Module):
        def __init__(self, rngs):
            self.block, self.head, self.calls = Block(rngs), nnx.Linear(6, 3, rngs=rngs), 0

        def __call__(self, x):
            self.calls += 1
            self.seen = nnx.Variable(x.mean())
            return self.head(self.block(x)).mean(0)

    model = shortcut(Counting(nnx.Rngs(0)), taps=("block",))
    model(X, coefficient=0.5)
    model(X, coefficient=0.5)
    assert model.main.calls == 2
    np.testing.assert_allclose(model.main.seen[...], X.mean())


def test_nothing_of_a_tap_is_on_the_network_during_or_after_a_call():
    class Looking(Net):
        def __call__(self, x):
            kinds.append(type(self))
            return super().__call__(x)

    kinds, net = [], Looking(nnx.Rngs(0))
    before = [type(module) for _, module in nnx.iter_modules(net)]
    model = shortcut(net)
    model(X, coefficient=0.5)
    assert [type(module) for _, module in nnx.iter_modules(net)] == before
    assert not jax.tree.leaves(nnx.state(model, Tapped))
    assert set(kinds) == {Looking}
    assert not any(name.startswith("_sbp") for _, module in nnx.iter_modules(net) for name in vars(module))


def test_two_shortcuts_round_one_network_share_it_and_nothing_else():
    net = Net(nnx.Rngs(0))
    first, second = shortcut(net), shortcut(net, taps=("blocks.0",), rngs=nnx.Rngs(2))
    one = first(X, coefficient=0.5)
    second(X, coefficient=0.9)
    np.testing.assert_array_equal(first(X, coefficient=0.5), one)
    assert first.strip() is second.strip() is net


def test_a_tap_that_does_not_exist_is_named_with_its_neighbours():
    with pytest.raises(ValueError, match=r"tap 'layer1.2' does not exist; did you mean .*'layer1.[01]'.*blocks.0"):
        shortcut(taps=("layer1.2",))
    names = module_names(Net(nnx.Rngs(0)))
    assert names["layer1.1"] == (("layer1", "layers", "1"),)
    assert "blocks" not in names  # a list is no block: it cannot be called


def test_a_resnet_can_be_tapped_inside_its_stages_too():
    net = sbp_jax.resnet18(widths=(2, 2, 2, 2), time_steps=2, rngs=nnx.Rngs(0))
    images = jnp.ones((2, 8, 8, 3))
    model = sbp_jax.Shortcut(net, ("layer2.0", "layer1"), combine="losses", sample=images, rngs=nnx.Rngs(1))
    output = nnx.eval_shape(lambda model: model(images), model)
    assert [branch.shape for branch in output.branches] == [(2, 10), (2, 10)]
    paths = {tap: module_names(net)[tap] for tap in ("layer2.0", "layer1")}
    tapped = nnx.eval_shape(lambda net: call_tapped(net, paths, (images,), {})[1], net)
    assert tapped["layer2.0"][0].shape == (2, 2, 4, 4, 2)
    with pytest.raises(ValueError, match=r"did you mean 'layer1'.*The network has: stem, layer1, layer2"):
        sbp_jax.Shortcut(net, ("layr1",), rngs=nnx.Rngs(1))


class Looped(nnx.Module):
    """Runs its block once per step, in a loop of the kind given."""

    time_axis = 0

    def __init__(self, kind):
        self.block, self.kind = nnx.Linear(6, 3, rngs=nnx.Rngs(0)), kind

    def __call__(self, x):
        if self.kind == "python":
            return jnp.stack([self.block(now) for now in x]).mean(0)
        if self.kind == "scan":
            return jax.lax.scan(lambda carry, now: (carry, self.block(now)), 0.0, x)[1].mean(0)
        return jax.checkpoint(lambda x: self.block(x))(x).mean(0)


@pytest.mark.parametrize(
    ("net", "taps", "error", "message"),
    [
        (
            Looped("python"),
            ("block",),
            RuntimeError,
            "ran 3 times in one forward pass.*pass time_axis='calls' if each call is a step",
        ),
        (Looped("scan"), ("block",), RuntimeError, "inside a JAX transformation"),
        (Looped("checkpoint"), ("block",), RuntimeError, r"nnx transformation \(nnx.remat\)"),
        (Net(nnx.Rngs(0)), ("unused",), RuntimeError, "tap 'unused' did not run"),
        (nnx.Sequential(lambda x: (x,), lambda x: x[0], nnx.Linear(6, 3, rngs=nnx.Rngs(0))), ("0",), ValueError, "'0'"),
    ],
)
def test_a_module_whose_output_cannot_be_had_is_refused(net, taps, error, message):
    with pytest.raises(error, match=message):
        shortcut(net, taps=taps)


def test_a_module_that_gives_no_array_is_refused():
    class Pair(nnx.Module):
        def __call__(self, x):
            return x, x

    net = nnx.Sequential(Pair(), lambda x, y: x.mean(0), nnx.Linear(6, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match="tap '0' must give an array, it gave a tuple; say with select"):
        shortcut(net, taps=("0",), time_axis=0)
