"""Networks of every kind of layer equal the oracle: spikes, logits, gradients, running statistics."""

import copy
import pickle
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sbp_jax
from sbp_core import CustomSpec, Evolutionary
from sbp_core.backend import MomentumSGD
from sbp_core.reference import layers as oracle
from sbp_core.reference import network as reference
from sbp_core.reference.networks import initial_weights
from sbp_core.specs import joins
from sbp_core.specs import layers as kinds
from sbp_core.specs.layers import Shape
from sbp_core.specs.structure import numbered, sequence
from sbp_jax.engine import JaxEngine
from sbp_jax.joins import JOINS
from sbp_jax.layers import LAYERS, Function, Options, build
from tests.networks import NETS, SPECS, STEPS, drawn

ENGINE = JaxEngine()
EXACT = {"rtol": 0, "atol": 1e-11}


def last(array):
    """Move the channels of images or maps, ``(..., channels, height, width)``, to the end."""
    return np.moveaxis(array, -3, -1)


def options():
    return Options(dtype=None, param_dtype=jnp.float32, rngs=nnx.Rngs(0))


def shaped(spec, **fields):
    return nnx.eval_shape(lambda: sbp_jax.network(spec, rngs=nnx.Rngs(0), **fields))


def check_step(name, *, mode="compiled", soft=False, frames=False):
    """Hold a step of training to the oracle."""
    network = NETS[name]
    weights, (images, labels) = drawn(name, soft=soft)
    if frames:
        images = np.stack([images, 0.5 * images, images[::-1]])
    expected = reference.network_step(network, weights, (images, labels), 0.75)
    with ENGINE.precision("float64"):
        given = ENGINE.array(last(images), "float64")
        built = ENGINE.network(network, weights, given, "float64", mode)
        loss, logits = built.differentiate(given, ENGINE.array(labels, "float64" if soft else None), 0.75)
        statistics, gradients = built.weights(), built.gradients()
        evaluated, blocks = built.evaluate(given), built.blocks(given)
    assert float(loss) == pytest.approx(expected.value, abs=1e-11)
    for found, wanted in zip(logits, expected.logits, strict=True):
        np.testing.assert_allclose(found, wanted, **EXACT)
    for path, wanted in expected.statistics.items():
        np.testing.assert_allclose(statistics[path], wanted, **EXACT, err_msg=path)
    np.testing.assert_allclose(evaluated, expected.evaluated, **EXACT)
    assert set(blocks) == set(expected.spikes)
    for part, spikes in blocks.items():
        assert np.array_equal(spikes, last(expected.spikes[part]) if spikes.ndim == 5 else expected.spikes[part]), part
    assert set(expected.gradients) == {path for path in gradients if ".running_" not in path}
    for path, wanted in expected.gradients.items():
        tolerance = 1e-11 * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(gradients[path], wanted, rtol=0, atol=tolerance, err_msg=path)


@pytest.mark.parametrize("name", NETS)
def test_a_step_of_training_equals_the_oracle(name):
    check_step(name, soft=name == "vgg")


def test_it_does_operation_by_operation_too():
    check_step("vgg", mode="eager")


def test_it_does_for_event_frames_too():
    check_step("vgg", frames=True)


def test_as_many_samples_as_steps_are_time_first_to_the_engine():
    weights, (images, _) = drawn("frames only")
    with ENGINE.precision("float64"):
        two = ENGINE.array(last(images), "float64")
        three = jnp.concatenate([two, two[:, :1]], axis=1)
        built = ENGINE.network(NETS["frames only"], weights, two, "float64", "compiled")
        np.testing.assert_allclose(built.evaluate(three)[:2], built.evaluate(two), rtol=1e-12)


def test_training_moves_every_weight_as_the_oracle_does():
    network = NETS["attention"]
    weights, batch = drawn("attention")
    schedule, optimizer = Evolutionary(initial=0.5, total_steps=4), MomentumSGD(learning_rate=0.01, momentum=0.5)
    expected, margin = reference.train(network, weights, [batch] * 3, schedule, optimizer)
    assert margin > 1e-9
    with ENGINE.precision("float64"):
        images, labels = ENGINE.array(last(batch.images), "float64"), ENGINE.array(batch.labels, None)
        built = ENGINE.network(network, weights, images, "float64", "compiled")
        train = built.trainer(schedule, optimizer)
        losses = [float(train(images, labels)[0]) for _ in range(3)]
        moved = built.weights()
    assert losses == pytest.approx(expected.losses, abs=1e-11)
    for path, found in moved.items():
        np.testing.assert_allclose(found, expected.weights[path], rtol=0, atol=1e-10, err_msg=path)


# what two axes of space do not show
OTHERS = {
    "conv 1d": (kinds.Conv(channels=6, kernel=3, stride=2, groups=2, bias=True), 4, (7,)),
    "conv, kernel 2, no padding": (kinds.Conv(channels=3, kernel=2, padding=0), 2, (4, 5)),
    "conv 3d": (kinds.Conv(channels=2, kernel=1, stride=2), 3, (3, 4, 2)),
    "batch norm of vectors": (kinds.BatchNorm(epsilon=0.1), 3, ()),
    "max pool 1d": (kinds.MaxPool(kernel=3, stride=2, padding=1), 2, (6,)),
    "avg pool 3d": (kinds.AvgPool(kernel=2), 2, (2, 4, 3)),
    "global pool 1d": (kinds.GlobalPool(), 2, (5,)),
    "flatten 3d": (kinds.Flatten(), 2, (2, 3, 2)),
    "head sum of vectors": (kinds.HeadSum(heads=2), 6, ()),
}


@pytest.mark.parametrize("lead", [(3, 2), (2,)], ids=["timed", "still"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_layer_takes_any_number_of_axes_of_space(name, lead):
    layer, channels, space = OTHERS[name]
    random = np.random.default_rng(sorted(OTHERS).index(name))
    x = random.normal(size=(*lead, channels, *space))
    weights = {
        f"here.{part}": random.uniform(0.5, 1.5, found.shape)
        for part, found in layer.parameters(Shape(channels, space)).items()
    }
    expected, _ = oracle.run(oracle.Tape(dict(weights), training=False), layer, "here", x, len(space))
    with jax.enable_x64(True):
        module = build(layer, "here", Shape(channels, space), Options(**{**options(), "param_dtype": jnp.float64}))
        module.eval()
        for part, variable in {"weight": "kernel", "bias": "bias"}.items():
            if isinstance(layer, kinds.Conv) and f"here.{part}" in weights:
                native = weights[f"here.{part}"]
                native = native if native.ndim == 1 else np.moveaxis(native, (0, 1), (-1, -2))
                getattr(module, variable).set_value(jnp.asarray(native))
        if isinstance(layer, kinds.BatchNorm):
            parts = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
            for part, variable in parts.items():
                getattr(module, variable).set_value(jnp.asarray(weights[f"here.{part}"]))
        found = module(jnp.asarray(np.moveaxis(x, len(lead), -1)))
    kept = expected.ndim > len(lead) + 1
    np.testing.assert_allclose(np.moveaxis(found, -1, len(lead)) if kept else found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_attention_is_the_same_whichever_product_comes_first(heads):
    random = np.random.default_rng(heads)
    ends = [random.normal(size=(2, 1, 3, 2, 8)) for _ in "qkv"]
    q, k, v = (end.reshape(2, 1, 6, heads, -1) for end in ends)
    expected = 0.3 * np.einsum("tbihc,tbjhc,tbjhd->tbihd", q, k, v).reshape(ends[0].shape)
    with jax.enable_x64(True):
        join = joins.Attention(heads=heads, scale=0.3)
        found = JOINS[joins.Attention](join, tuple(map(jnp.asarray, ends)), 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_every_kind_of_layer_has_a_module():
    def ours(family):
        return {kind for kind in family.families().values() if kind.__module__.startswith("sbp_core.")}

    assert set(LAYERS) == ours(kinds.LayerSpec)
    assert set(JOINS) == ours(joins.JoinSpec)


@pytest.mark.parametrize("name", SPECS)
def test_names_and_shapes_are_those_of_the_spec_and_it_can_be_copied(name):
    spec = SPECS[name]
    net, again = (shaped(spec) for _ in range(2))
    sbp_jax.import_weights(net, initial_weights(spec, seed=2))
    for twin in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        weights = sbp_jax.export_weights(twin)
        assert {path: array.shape for path, array in weights.items()} == spec.parameter_shapes()
        assert list(weights) == list(spec.parameter_shapes())
        assert len(jax.tree.leaves(nnx.state(twin, nnx.Param, nnx.BatchStat))) == len(weights)
    # jit knows a network that was built alike
    assert nnx.graphdef(net) == nnx.graphdef(again)


def test_modules_are_those_of_flax_where_it_has_them():
    net = shaped(SPECS["joins"])
    assert type(net.stem.conv) is nnx.Conv
    assert type(net.head) is nnx.Linear
    assert type(net.blocks) is nnx.Sequential
    assert net.blocks.layers[0].downsample is None
    assert isinstance(net.blocks.layers[1].downsample.bn, nnx.BatchNorm)


def test_weights_start_in_the_stated_spread():
    shape = Shape(16, (4, 4))
    uniform = build(kinds.Conv(channels=64, groups=4, bias=True, initial="uniform"), "here", shape, options())
    bound = 1 / np.sqrt(4 * 9)
    for variable in (uniform.kernel, uniform.bias):
        assert 0.9 * bound < np.abs(variable[...]).max() <= bound
        np.testing.assert_allclose(np.std(variable[...]), bound / np.sqrt(3), rtol=0.15)
    kaiming = build(kinds.Conv(channels=64, groups=4), "here", shape, options())
    np.testing.assert_allclose(np.std(kaiming.kernel[...]), np.sqrt(2 / (9 * 64)), rtol=0.05)
    norm = build(kinds.BatchNorm(scale=0.25), "here", shape, options())
    assert norm.scale[...].tolist() == [0.25] * 16


def dropping():
    layers = sequence(
        stem=sequence(drop=kinds.Dropout(rate=0.5), neuron=kinds.Neuron()),
        pool=kinds.GlobalPool(),
        mean=kinds.TimeMean(),
    )
    return sbp_jax.Network(
        CustomSpec(layers=layers, num_classes=64, in_channels=64, time_steps=STEPS), rngs=nnx.Rngs(0)
    )


def test_dropout_drops_the_same_at_every_step_and_other_values_of_other_samples_and_calls():
    net = dropping()
    ones = jnp.ones((STEPS, 8, 2, 2, 64))
    dropped, again = np.asarray(net.stem.drop(ones)), np.asarray(net.stem.drop(ones))
    for step in range(1, STEPS):
        np.testing.assert_array_equal(dropped[0], dropped[step])
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 0.4 < np.mean(dropped == 0) < 0.6
    assert not np.array_equal(dropped[0, 0], dropped[0, 1])
    assert not np.array_equal(dropped, again)
    still = np.asarray(net.stem.drop(ones[0]))
    assert not np.array_equal(still[0], still[1])
    net.eval()
    np.testing.assert_array_equal(net.stem.drop(jnp.asarray(dropped)), dropped)


def test_dropout_under_jit_draws_anew_in_each_call():
    net, ones = dropping(), jnp.ones((STEPS, 2, 2, 2, 64))
    call = nnx.jit(lambda net, x: net.stem.drop(x))
    assert not np.array_equal(call(net, ones), call(net, ones))


def test_per_step_leaves_the_mean_out():
    spec = SPECS["vgg"]
    net, apart = (shaped(spec, per_step=flag) for flag in (False, True))
    for twin in (net, apart):
        sbp_jax.import_weights(twin, initial_weights(spec, seed=2))
        twin.eval()
    images = jax.random.normal(jax.random.key(0), (2, 8, 6, 2))
    steps = nnx.jit(apart)(images)
    assert steps.shape == (STEPS, 2, 4)
    np.testing.assert_allclose(steps.mean(0), nnx.jit(net)(images), rtol=1e-6)
    endless = CustomSpec(
        layers=sequence(flat=kinds.Flatten(), head=kinds.Linear(features=2)), size=(2, 2), num_classes=2, in_channels=1
    )
    with pytest.raises(ValueError, match="per_step must be False: the custom does not end in a mean over time"):
        sbp_jax.Network(endless, per_step=True, rngs=nnx.Rngs(0))


def test_a_network_of_the_zoo_is_built_by_name_and_one_of_a_spec_with_other_fields():
    named = shaped("resnet20", num_classes=3, per_step=True)
    assert (named.spec.depths, named.spec.num_classes, named.per_step) == ((3, 3, 3), 3, True)
    changed = shaped(SPECS["resnet"], time_steps=7)
    assert changed.spec == SPECS["resnet"].replace(time_steps=7)
    with pytest.raises(ValueError, match="did you mean 'resnet19'"):
        sbp_jax.network("resnet81", rngs=nnx.Rngs(0))


def test_branches_fit_what_they_tap_maps_or_vectors():
    net = sbp_jax.Network(SPECS["vgg"], rngs=nnx.Rngs(0))
    model = sbp_jax.Shortcut(net, ("features", "classifier"), 4, rngs=nnx.Rngs(1))
    assert nnx.jit(lambda model, x: model(x, coefficient=0.5))(model, jnp.ones((2, 8, 6, 2))).shape == (2, 4)
    with pytest.raises(ValueError, match="'convolutional' needs a tapped output with axes of space"):
        sbp_jax.Shortcut(net, ("classifier",), 4, branch="convolutional", rngs=nnx.Rngs(1))


def test_a_part_may_be_named_as_the_list_in_a_sequential():
    spec = CustomSpec(
        layers=sequence(
            {"layers": sequence({"layers": numbered(kinds.Conv(channels=2), kinds.Neuron())})}, pool=kinds.GlobalPool()
        ),
        num_classes=2,
        in_channels=1,
    )
    net = sbp_jax.Network(spec, rngs=nnx.Rngs(0))
    assert list(sbp_jax.export_weights(net)) == ["layers.layers.0.weight"]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg", (2, 8, 8, 2), r"images must be of size \(8, 6\), as the custom says; got \(8, 8\)"),
        ("frames only", (2, 8, 8, 2), "images must be event frames, with an axis of time"),
        ("vgg", (2, 8, 6, 3), "images must have 2 channels in their last axis, got 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        shaped(SPECS[name])(jnp.ones(shape))


def test_a_layer_that_is_named_as_something_of_every_module_is_refused():
    spec = CustomSpec(layers=sequence(train=kinds.GlobalPool()), num_classes=3)
    with pytest.raises(ValueError, match="layer 'train': a Network in JAX has another 'train'; rename the layer"):
        sbp_jax.Network(spec, rngs=nnx.Rngs(0))


def test_another_number_of_steps_than_there_are_factors_is_refused():
    scale = build(kinds.TimeScale(time_steps=1), "here", Shape(2), options())
    with pytest.raises(ValueError, match=r"there is a factor for each of 1 steps, got 3"):
        scale(jnp.ones((3, 1, 2)))


def test_a_layer_without_a_module_says_so():
    @dataclass(frozen=True, kw_only=True)
    class Softplus(kinds.LayerSpec):
        kind: ClassVar[str] = "softplus of a JAX test"

        def output(self, shape):
            return shape

    spec = CustomSpec(layers=sequence(act=Softplus(), flat=kinds.GlobalPool()), num_classes=3)
    with pytest.raises(TypeError, match="layer 'act': JAX has no module for the kind 'softplus of a JAX test'"):
        sbp_jax.Network(spec, rngs=nnx.Rngs(0))
    LAYERS[Softplus] = lambda layer, path, shape, options: Function(lambda _, x, space: jax.nn.softplus(x), layer, 2)
    try:
        net = sbp_jax.Network(spec, rngs=nnx.Rngs(0))
        assert float(net(jnp.zeros((4, 1, 2, 2, 3)))[0, 0, 0]) == pytest.approx(np.log(2))
    finally:
        del LAYERS[Softplus]
