"""Every layer's oracle: values against plain loops or identities, gradients against finite differences."""

import numpy as np
import pytest

from sbp_core import LIFSpec
from sbp_core.reference import layers as reference
from sbp_core.reference.joins import JOINS
from sbp_core.specs import joins
from sbp_core.specs import layers as kinds
from sbp_core.specs.layers import Shape
from sbp_core.specs.structure import Composite, Parallel, Residual, numbered, placed_in, sequence

SEED = 20261125
SMOOTH = LIFSpec(surrogate="gaussian", decay=0.6, learn_decay=True, learn_initial=True)

# layer, channels and space of its input
LAYERS = {
    "conv 1d": (kinds.Conv(channels=4, kernel=3, bias=True), 2, (7,)),
    "conv 2d, stride 2": (kinds.Conv(channels=3, kernel=3, stride=2), 2, (6, 5)),
    "conv, kernel 2, no padding, groups": (kinds.Conv(channels=6, kernel=2, padding=0, groups=2, bias=True), 4, (4, 5)),
    "conv, a channel a group": (kinds.Conv(channels=4, kernel=3, groups=4, padding=2), 4, (3, 4)),
    "conv 3d": (kinds.Conv(channels=2, kernel=1, stride=2), 3, (3, 4, 2)),
    "batch norm": (kinds.BatchNorm(epsilon=0.1), 3, (4, 2)),
    "batch norm of vectors": (kinds.BatchNorm(), 3, ()),
    "linear": (kinds.Linear(features=4), 3, ()),
    "linear without bias": (kinds.Linear(features=4, bias=False), 3, ()),
    "max pool": (kinds.MaxPool(kernel=2), 2, (5, 4)),
    "max pool, padded": (kinds.MaxPool(kernel=3, stride=2, padding=1), 2, (5, 6)),
    "avg pool": (kinds.AvgPool(kernel=2), 2, (5, 4)),
    "avg pool, padded": (kinds.AvgPool(kernel=3, stride=2, padding=1), 2, (5, 6)),
    "global pool": (kinds.GlobalPool(), 2, (3, 4)),
    "flatten": (kinds.Flatten(), 2, (3, 4)),
    "relu": (kinds.Relu(), 2, (3, 4)),
    "vote": (kinds.Vote(voters=3), 6, ()),
    "head sum": (kinds.HeadSum(heads=2), 6, (2, 3)),
    "neuron": (kinds.Neuron(spec=SMOOTH), 2, (3,)),
    "time scale": (kinds.TimeScale(time_steps=3), 2, (3,)),
    "time mean": (kinds.TimeMean(), 4, ()),
    "residual, iand": (
        Residual(
            body=sequence(conv=kinds.Conv(channels=3), neuron=kinds.Neuron(spec=SMOOTH)),
            shortcut=sequence(conv=kinds.Conv(channels=3, kernel=1), neuron=kinds.Neuron(spec=SMOOTH)),
            join="iand",
            after=sequence(bn=kinds.BatchNorm()),
        ),
        2,
        (4, 3),
    ),
    "residual, and": (Residual(body=sequence(conv=kinds.Conv(channels=2)), join="and"), 2, (4, 3)),
    "residual, the head in it": (
        Residual(
            body=sequence(pool=kinds.GlobalPool(), fc=kinds.Linear(features=3)),
            shortcut=sequence(flat=kinds.Flatten(), fc=kinds.Linear(features=3)),
        ),
        2,
        (2, 2),
    ),
    "attention": (
        Parallel(
            paths=tuple((name, kinds.Conv(channels=4, kernel=1)) for name in "qkv"),
            join=joins.Attention(heads=2, scale=0.3),
        ),
        3,
        (2, 3),
    ),
    "gate": (
        Parallel(
            paths=(
                ("k", kinds.Conv(channels=6, kernel=1)),
                ("q", sequence(conv=kinds.Conv(channels=4, kernel=1), sum=kinds.HeadSum(heads=2))),
            ),
            join=joins.Gate(),
        ),
        3,
        (2, 3),
    ),
    "three paths": (
        Parallel(paths=tuple((name, kinds.Conv(channels=2, kernel=1)) for name in "abc"), join="and"),
        3,
        (2, 2),
    ),
}


def made(name):
    layer, channels, space = LAYERS[name]
    random = np.random.default_rng([SEED, sorted(LAYERS).index(name)])
    x = random.normal(size=(3, 2, channels, *space))
    places = list(placed_in(layer, "here", Shape(channels, space)))
    shapes = {path: found.shape for placed in places for path, found in placed.parameters().items()}
    weights = {path: random.normal(0.3, 0.6, shape) for path, shape in shapes.items() if ".running_" not in path}
    weights |= {path: random.uniform(0.5, 1.5, shape) for path, shape in shapes.items() if ".running_" in path}
    return layer, x, weights, places[-1].output


def run(layer, x, weights, *, training=True):
    tape = reference.Tape(dict(weights), training=training, smooth=True)
    y, back = reference.run(tape, layer, "here", x, x.ndim - 3)
    return tape, y, back


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_equal_finite_differences_and_shapes_are_as_stated(name, training):
    layer, x, weights, output = made(name)
    tape, y, back = run(layer, x, weights, training=training)
    # time is gone behind a mean
    lead = (3, 2) if output.timed else (2,)
    assert y.shape == (*lead, output.channels, *output.space)
    if not training and any(path.endswith("running_mean") for path in weights):
        # only the values of evaluation are given: its gradient nobody asks for
        return
    random = np.random.default_rng(SEED)
    cotangent = random.normal(size=y.shape)
    of_x = back(cotangent)
    assert set(tape.gradients) == {path for path in weights if ".running_" not in path}
    h = 1e-6

    def objective(x, weights):
        return np.sum(run(layer, x, weights, training=training)[1] * cotangent)

    for path, gradient in {"x": of_x, **tape.gradients}.items():
        direction = random.normal(size=gradient.shape)
        if path == "x":
            up, down = (objective(x + sign * h * direction, weights) for sign in (1, -1))
        else:
            up, down = (objective(x, weights | {path: weights[path] + sign * h * direction}) for sign in (1, -1))
        assert np.sum(gradient * direction) == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-7), (name, path)


@pytest.mark.parametrize("name", [name for name, (layer, *_) in LAYERS.items() if isinstance(layer, kinds.Conv)])
def test_a_convolution_equals_plain_loops(name):
    layer, x, weights, _ = made(name)
    _, y, _ = run(layer, x, weights)
    space, pad = x.ndim - 3, layer.pad
    padded = np.pad(x, [(0, 0)] * 3 + [(pad, pad)] * space)
    inputs, outputs = x.shape[2] // layer.groups, layer.channels // layer.groups
    for t, sample, out, *place in np.ndindex(y.shape):
        window = tuple(slice(layer.stride * p, layer.stride * p + layer.kernel) for p in place)
        first = out // outputs * inputs
        seen = padded[(t, sample, slice(first, first + inputs), *window)]
        expected = np.sum(seen * weights["here.weight"][out]) + (weights["here.bias"][out] if layer.bias else 0.0)
        assert y[(t, sample, out, *place)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in LAYERS if "pool" in name and "global" not in name])
def test_a_pool_equals_plain_loops(name):
    layer, x, weights, _ = made(name)
    _, y, _ = run(layer, x, weights)
    largest = isinstance(layer, kinds.MaxPool)
    padded = np.pad(
        x, [(0, 0)] * 3 + [(layer.padding,) * 2] * (x.ndim - 3), constant_values=-np.inf if largest else 0.0
    )
    for t, sample, channel, *place in np.ndindex(y.shape):
        window = tuple(slice(layer.step * p, layer.step * p + layer.kernel) for p in place)
        seen = padded[(t, sample, channel, *window)]
        assert y[(t, sample, channel, *place)] == (seen.max() if largest else pytest.approx(seen.mean(), abs=1e-15))


def test_max_pooling_gives_the_gradient_to_the_first_of_equals():
    x = np.zeros((1, 1, 1, 4, 4))
    x[..., 1:3, 1:3] = 1.0
    _, pooled, back = run(kinds.MaxPool(kernel=3, stride=2, padding=1), x, {})
    assert pooled.ravel().tolist() == [1.0, 1.0, 1.0, 1.0]
    assert back(np.ones_like(pooled))[0, 0, 0].tolist() == [[0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_attention_is_what_its_equation_says():
    layer, x, weights, _ = made("attention")
    tape, y, _ = run(layer, x, weights)
    q, k, v = (tape.outputs[f"here.{name}"].reshape(3, 2, 2, 2, 6) for name in "qkv")
    expected = 0.3 * np.einsum("tbhci,tbhcj,tbhdj->tbhdi", q, k, v)
    np.testing.assert_allclose(y.reshape(expected.shape), expected, rtol=1e-12)


def test_a_gate_has_a_channel_for_each_head():
    layer, x, weights, _ = made("gate")
    tape, y, _ = run(layer, x, weights)
    k, q = tape.outputs["here.k"], tape.outputs["here.q.conv"]
    for head in range(2):
        summed = q[:, :, 2 * head : 2 * head + 2].sum(2, keepdims=True)
        given = slice(3 * head, 3 * head + 3)
        np.testing.assert_allclose(y[:, :, given], k[:, :, given] * summed, rtol=1e-12)


def test_every_kind_of_layer_has_an_oracle_and_a_case():
    known = {kind for kind in kinds.LayerSpec.families().values() if kind.__module__.startswith("sbp_core.")}
    assert {kind for kind in known if not issubclass(kind, Composite)} == set(reference.LAYERS)
    known = {kind for kind in joins.JoinSpec.families().values() if kind.__module__.startswith("sbp_core.")}
    assert known == set(JOINS)
    cases = [(layer, Shape(channels, space)) for layer, channels, space in LAYERS.values()]
    tried = {type(placed.layer) for layer, shape in cases for placed in placed_in(layer, "", shape)}
    assert tried >= (set(reference.LAYERS) | set(JOINS)) - {kinds.Repeat, kinds.Dropout}


def test_repeating_gives_frames_as_they_are_and_sums_what_comes_back():
    layer = kinds.Repeat(time_steps=3)
    tape = reference.Tape({}, training=True)
    image = np.arange(6.0).reshape(2, 3)
    y, back = reference.run(tape, layer, "here", image, 0)
    assert y.shape == (3, 2, 3)
    assert np.all(back(np.ones_like(y)) == 3.0)
    again, _ = reference.run(tape, layer, "here", y, 0)
    assert again is y


def test_dropout_without_an_oracle_says_so():
    with pytest.raises(NotImplementedError, match="layer 'here': dropout draws at random"):
        run(kinds.Dropout(rate=0.5), np.ones((2, 2, 3)), {})
    assert run(numbered(kinds.Dropout(rate=0.5)), np.ones((2, 2, 3)), {}, training=False)[1].sum() == 12
