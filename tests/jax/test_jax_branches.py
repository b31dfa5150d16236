"""Branches: axes of what is tapped, their kinds, and as pure functions for Equinox, Linen and functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import sbp_jax
from sbp_jax import branches

RNG = np.random.default_rng(31)
LABELS = jnp.array([0, 1, 2, 0])
X = jnp.asarray(RNG.normal(0.5, 1, (3, 4, 6)), jnp.float32)


class Reshaping(nnx.Module):
    """Gives ``(time, batch, *space, channels)`` to a tapped module in another order of axes."""

    time_axis = 0

    def __init__(self, order):
        self.tapped, self.order = Transposed(order), order

    def __call__(self, x):
        self.tapped(x)
        return x.mean(tuple(range(2, x.ndim - 1))).mean(0)


class Transposed(nnx.Module):
    def __init__(self, order):
        self.order = order

    def __call__(self, x):
        return x.transpose(self.order)


ORDERS = {
    "time first": ((0, 1, 2, 3, 4), 0, "last"),
    "time second": ((1, 0, 2, 3, 4), 1, -1),
    "channels first": ((0, 1, 4, 2, 3), 0, "first"),
    "both": ((1, 0, 4, 2, 3), 1, 2),
    "counted from the end": ((0, 1, 4, 2, 3), 0, -3),
}


@pytest.mark.parametrize("name", ORDERS)
def test_time_and_channels_are_found_where_they_are_said_to_be(name):
    order, time_axis, channels = ORDERS[name]
    x = jnp.asarray(RNG.normal(size=(3, 4, 5, 2, 7)), jnp.float32)
    model = sbp_jax.Shortcut(
        Reshaping(order), ("tapped",), 7, sample=x, time_axis=time_axis, channels=channels, rngs=nnx.Rngs(1)
    )
    branch = model.branches[0]
    wanted = np.asarray(x, np.float64).mean((0, 2, 3)) @ branch.kernel[...] + branch.bias[...]
    np.testing.assert_allclose(model(x, coefficient=1.0) - model.main(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", [(), (9,), (5, 2), (3, 2, 2)])
def test_any_number_of_axes_of_space_or_tokens_is_averaged(space):
    x = jnp.asarray(RNG.normal(size=(3, 4, *space, 7)), jnp.float32)
    order = tuple(range(x.ndim))
    model = sbp_jax.Shortcut(Reshaping(order), ("tapped",), 7, "losses", sample=x, rngs=nnx.Rngs(1))
    branch = model.branches[0]
    wanted = np.asarray(x, np.float64).mean((0, *range(2, x.ndim - 1))) @ branch.kernel[...] + branch.bias[...]
    np.testing.assert_allclose(model(x).branches[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_tapped_output_without_time_is_one_step():
    x = jnp.asarray(RNG.normal(size=(4, 5, 7)), jnp.float32)
    net = nnx.Sequential(Transposed((0, 1, 2)), lambda x: x.mean(1))
    model = sbp_jax.Shortcut(net, ("0",), 7, "losses", sample=x, time_axis=None, rngs=nnx.Rngs(1))
    branch = model.branches[0]
    wanted = np.asarray(x, np.float64).mean(1) @ branch.kernel[...] + branch.bias[...]
    np.testing.assert_allclose(model(x).branches[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_batch_in_the_wrong_place_is_refused_with_the_axes_to_pass():
    x = jnp.ones((3, 4, 7))
    with pytest.raises(
        ValueError, match=r"gave shape \(4, 3, 7\), .*batch of the main logits, 4, .*pass time_axis=1 for"
    ):
        sbp_jax.Shortcut(Reshaping((1, 0, 2)), ("tapped",), 7, sample=x, rngs=nnx.Rngs(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_axis": 2}, "time_axis must be 0, 1, None, 'calls' or 'merged'; got 2"),
        ({"time_axis": True}, "time_axis must be"),
        ({"channels": 1}, "channels must be an axis after batch and time, or count from the end; got 1"),
        ({"channels": 5}, r"tap 'tapped' gave shape \(3, 4, 7\)"),
        ({"branch": "conv"}, "branch must be one of 'linear', 'convolutional'"),
    ],
)
def test_axes_and_kinds_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sbp_jax.Shortcut(Reshaping((0, 1, 2)), ("tapped",), 7, sample=jnp.ones((3, 4, 7)), rngs=nnx.Rngs(1), **options)


@pytest.mark.parametrize("space", [(6,), (5, 4)])
def test_the_convolutional_branch_is_convolution_norm_relu_pool_and_linear(space):
    x = jnp.asarray(RNG.normal(size=(3, 4, *space, 2)), jnp.float32)
    order = tuple(range(x.ndim))
    model = sbp_jax.Shortcut(
        Reshaping(order), ("tapped",), 2, "losses", sample=x, branch="convolutional", rngs=nnx.Rngs(1)
    )
    branch = model.branches[0]
    kernel, padded = np.asarray(branch.conv.kernel[...], np.float64), np.zeros((3, 4, *(n + 2 for n in space), 2))
    padded[(slice(None), slice(None), *[slice(1, -1)] * len(space))] = x
    maps = np.zeros((3, 4, *space, 2))
    for place in np.ndindex(maps.shape[2:-1]):
        window = padded[(slice(None), slice(None), *(slice(i, i + 3) for i in place))]
        maps[(slice(None), slice(None), *place)] = np.tensordot(window, kernel, len(space) + 1)
    axes = tuple(range(maps.ndim - 1))
    normed = (maps - maps.mean(axes)) / np.sqrt(maps.var(axes) + 1e-5)
    pooled = np.maximum(normed, 0).mean((0, *axes[2:]))
    wanted = pooled @ branch.linear.kernel[...] + branch.linear.bias[...]
    np.testing.assert_allclose(model(x).branches[0], wanted, rtol=1e-4, atol=1e-5)
    model.eval()
    np.testing.assert_array_equal(model(x), model.main(x))


def test_a_convolutional_branch_needs_space():
    with pytest.raises(ValueError, match="needs a tapped output with axes of space; take 'linear'"):
        sbp_jax.Shortcut(
            Reshaping((0, 1, 2)), ("tapped",), 7, branch="convolutional", sample=jnp.ones((3, 4, 7)), rngs=nnx.Rngs(1)
        )


class Own(nnx.Module):
    def __init__(self, channels, num_classes, *, rngs):
        self.linear = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.linear(x.max(axis=tuple(range(2, x.ndim - 1))))


def test_a_branch_of_ones_own_is_built_for_each_tap_and_run():
    x = jnp.asarray(RNG.normal(size=(3, 4, 5, 7)), jnp.float32)
    model = sbp_jax.Shortcut(Reshaping((0, 1, 2, 3)), ("tapped",), 7, "losses", branch=Own, sample=x, rngs=nnx.Rngs(1))
    layer = model.branches[0].linear
    wanted = np.asarray(x).max(2).mean(0) @ layer.kernel[...] + layer.bias[...]
    np.testing.assert_allclose(model(x).branches[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_branch_of_ones_own_that_does_not_fit_is_refused():
    make = functools.partial(
        sbp_jax.Shortcut, Reshaping((0, 1, 2)), ("tapped",), 7, sample=jnp.ones((3, 4, 7)), rngs=nnx.Rngs(1)
    )
    with pytest.raises(TypeError, match=r"branch must return an nnx.Module, it returned function"):
        make(branch=lambda channels, num_classes, *, rngs: jnp.mean)
    with pytest.raises(ValueError, match=r"must give \(time, batch, num_classes\) = \(3, 4, 7\), it gave \(3, 4, 9\)"):
        make(branch=lambda channels, num_classes, *, rngs: nnx.Linear(7, 9, rngs=rngs))(
            jnp.ones((3, 4, 7)), coefficient=1.0
        )


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.Dense(8, name="block1")(x))
        return linen.Dense(3, name="head")(linen.Dense(5, name="block2")(x)).mean(0)


def plain(weights, x):
    hidden = jnp.tanh(x @ weights["in"])
    return (hidden @ weights["out"]).mean(0), {"hidden": hidden}


def function():
    weights = {"in": jnp.asarray(RNG.normal(size=(6, 8))), "out": jnp.asarray(RNG.normal(size=(8, 3)))}
    return weights, plain, branches.channels(plain, weights, jax.ShapeDtypeStruct(X.shape, X.dtype), time_axis=0)


def test_params_start_as_every_linear_layer_and_no_two_alike():
    params = branches.init(jax.random.key(1), {"a": 100, "b": 100}, 50)
    for branch in params.values():
        assert branch["kernel"].shape == (100, 50)
        assert 0.095 < np.abs(branch["kernel"]).max() <= 0.1
        np.testing.assert_allclose(np.std(branch["kernel"]), 0.1 / np.sqrt(3), rtol=0.05)
    assert (params["a"]["kernel"] != params["b"]["kernel"]).any()
    assert branches.init(jax.random.key(1), {"a": 2}, 3, dtype=jnp.bfloat16)["a"]["bias"].dtype == jnp.bfloat16


def test_branches_apart_go_to_the_loss():
    weights, net, channels = function()
    params = branches.init(jax.random.key(1), channels, 3)
    output = branches.outputs(params, *net(weights, X), time_axis=0)
    apart = sbp_jax.ShortcutLoss("logits")(output, LABELS, 0.25)
    summed = branches.apply(params, *net(weights, X), 0.25, time_axis=0)
    np.testing.assert_allclose(apart, optax.softmax_cross_entropy_with_integer_labels(summed, LABELS).mean(), rtol=1e-6)


def test_linen_modules_are_found_by_path():
    class Outer(linen.Module):
        @linen.compact
        def __call__(self, x):
            shared = linen.Dense(6, name="shared")
            return LinenNet(name="inner")(shared(shared(x)))

    net = Outer()
    _, state = net.apply(net.init(jax.random.key(0), X), X, capture_intermediates=True, mutable=["intermediates"])
    assert branches.from_linen(state["intermediates"], ("inner.block1",))["inner.block1"].shape == (3, 4, 8)
    with pytest.raises(ValueError, match=r"did you mean 'inner.block2' or 'inner.block1'"):
        branches.from_linen(state["intermediates"], ("inner.block3",))
    with pytest.raises(RuntimeError, match="tap 'shared' ran twice in one forward pass"):
        branches.from_linen(state["intermediates"], ("shared",))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p: branches.apply(p, jnp.ones((4, 3)), {"b": X}, 1.0, time_axis=0),
            ValueError,
            "tap 'a' does not exist",
        ),
        (
            lambda p: branches.apply(p, jnp.ones((4, 3)), {"a": X}, float("inf"), time_axis=0),
            ValueError,
            "coefficient must be",
        ),
        (
            lambda p: branches.apply(p, jnp.ones((9, 3)), {"a": X}, 1.0, time_axis=0),
            ValueError,
            "batch of the main logits, 9",
        ),
        (lambda p: branches.init(jax.random.key(0), {"a": 0}, 3), ValueError, r"channels\['a'\] must be at least 1"),
        (lambda p: branches.init(jax.random.key(0), {}, 3), ValueError, "at least one block"),
        (
            lambda p: branches.channels(lambda x: x, X, time_axis=0),
            TypeError,
            r"must return \(logits, taps\), it returned",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(branches.init(jax.random.key(0), {"a": 6}, 3))


def test_the_package_does_not_need_equinox():
    import ast
    from pathlib import Path

    for path in Path(sbp_jax.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert "equinox" not in {name.partition(".")[0] for name in names if name}
