"""Networks of every kind of layer equal the oracle; every test runs on whichever backend Keras is set to."""

from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import CustomSpec, Evolutionary, LossSpec
from sbp_core.backend import MomentumSGD
from sbp_core.reference import network as reference
from sbp_core.specs import joins
from sbp_core.specs import layers as kinds
from sbp_core.specs.structure import Composite, Parallel, numbered, sequence
from sbp_keras.engine import make_engine
from sbp_keras.layers import JOINS, LAYERS
from sbp_keras.networks import layer_names
from sbp_keras.weightless import FUNCTIONS, Weightless
from tests.networks import NETS, SPECS, STEPS, drawn

ENGINE = make_engine()
EXACT = {"rtol": 0, "atol": 1e-11}


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def here(images):
    """Return images as Keras has them: channels last, time behind the batch."""
    last = np.moveaxis(images, -3, -1)
    return np.swapaxes(last, 0, 1) if last.ndim == 5 else last


def built(name, mode, soft=False):
    network = NETS[name]
    weights, (images, labels) = drawn(name, soft=soft)
    given = ENGINE.array(here(images), "float64")
    targets = ENGINE.array(labels, "float64" if soft else None)
    return ENGINE.network(network, weights, given, "float64", mode), given, targets


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "eager") for name in NETS),
        *((name, mode) for name in ("vgg", "attention") for mode in ENGINE.modes[1:]),
    ],
)
def test_a_step_of_training_equals_the_oracle(name, mode):
    soft = name == "vgg"
    weights, batch = drawn(name, soft=soft)
    expected = reference.network_step(NETS[name], weights, batch, 0.75)
    with ENGINE.precision("float64"):
        net, images, labels = built(name, mode, soft)
        loss, logits = net.differentiate(images, labels, 0.75)
        assert float(numpy(loss)) == pytest.approx(expected.value, abs=1e-11)
        for found, wanted in zip(logits, expected.logits, strict=True):
            np.testing.assert_allclose(numpy(found), wanted, **EXACT)
        after = net.weights()
        for path, wanted in expected.statistics.items():
            np.testing.assert_allclose(after[path], wanted, **EXACT, err_msg=path)
        np.testing.assert_allclose(numpy(net.evaluate(images)), expected.evaluated, **EXACT)
        blocks = net.blocks(images)
        assert set(blocks) == set(expected.spikes)
        for part, spikes in blocks.items():
            found = np.swapaxes(numpy(spikes), 0, 1)
            assert np.array_equal(np.moveaxis(found, -1, 2), expected.spikes[part]), part
        gradients = net.gradients()
    assert set(expected.gradients) == {path for path in gradients if ".running_" not in path}
    for path, wanted in expected.gradients.items():
        bound = 1e-11 * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(gradients[path], wanted, rtol=0, atol=bound, err_msg=path)


def test_training_moves_every_weight_as_the_oracle_does():
    weights, batch = drawn("attention")
    schedule, optimizer = Evolutionary(initial=0.5, total_steps=4), MomentumSGD(learning_rate=0.01, momentum=0.5)
    expected, margin = reference.train(NETS["attention"], weights, [batch] * 3, schedule, optimizer)
    assert margin > 1e-9
    with ENGINE.precision("float64"):
        net, images, labels = built("attention", "eager")
        train = net.trainer(schedule, optimizer)
        losses = [float(numpy(train(images, labels)[0])) for _ in range(3)]
        found = net.weights()
    # Keras's SGD has its learning rate in float32
    assert losses == pytest.approx(expected.losses, abs=1e-7)
    for path, wanted in expected.weights.items():
        np.testing.assert_allclose(found[path], wanted, rtol=0, atol=1e-7, err_msg=path)


def test_every_kind_of_layer_and_join_is_in_the_tables():
    def ours(family):
        return {kind for kind in family.families().values() if kind.__module__.startswith("sbp_core.")}

    assert set(LAYERS) == {kind for kind in ours(kinds.LayerSpec) if not issubclass(kind, Composite)}
    assert set(JOINS) == ours(joins.JoinSpec)


@pytest.mark.parametrize("name", SPECS)
def test_shapes_names_and_parts_are_those_of_the_spec(name):
    spec = SPECS[name]
    net = sbp_keras.Network(spec)
    weights = sbp_keras.export_weights(net)
    assert {path: value.shape for path, value in weights.items()} == spec.parameter_shapes()
    assert list(weights) == list(spec.parameter_shapes())
    for part, shape in spec.parts.items():
        output = net.get_layer(part).output
        assert (output.shape[1], output.shape[-1]) == (STEPS, shape.channels)
    # what each layer says of its shape is what comes out
    x = np.zeros((2, *net.input_shape[1:]), "float32")
    tensors = [layer.output for layer in net.layers[1:]]
    for tensor, found in zip(tensors, keras.Model(net.input, tensors)(x), strict=True):
        assert tuple(tensor.shape[1:]) == tuple(found.shape[1:]), tensor.name


@pytest.mark.parametrize("name", ["vgg", "attention", "joins", "frames only"])
def test_a_network_is_saved_and_loaded(tmp_path, name):
    net = sbp_keras.network(SPECS[name], name="mine")
    model = sbp_keras.ShortcutModel(
        net, NETS[name].taps, SPECS[name].num_classes, loss_spec=LossSpec(combine="logits", per_step=True)
    )
    x = np.random.default_rng(5).normal(size=(2, *net.input_shape[1:])).astype("float32")
    model(x, training=True)
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert (loaded.spec, loaded.name, loaded.input_shape) == (SPECS[name], "mine", net.input_shape)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), net.predict(x, verbose=0))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(again(x, training=True)), numpy(model(x, training=True)))
    # layer by layer too, in a model of another class
    copy = keras.models.clone_model(keras.Model(net.input, net.output))
    copy.set_weights(net.get_weights())
    np.testing.assert_array_equal(numpy(copy(x)), numpy(net(x)))


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_per_step_leaves_the_mean_out(name):
    net, apart = (sbp_keras.Network(SPECS[name], per_step=per_step) for per_step in (False, True))
    sbp_keras.import_weights(apart, sbp_keras.export_weights(net))
    x = np.random.default_rng(6).normal(size=(2, *net.input_shape[1:])).astype("float32")
    steps = numpy(apart(x))
    assert steps.shape == (2, STEPS, 4)
    np.testing.assert_allclose(steps.mean(axis=1), numpy(net(x)), rtol=0, atol=1e-6)
    assert sbp_keras.Network.from_config(apart.get_config()).output_shape == (None, STEPS, 4)
    endless = CustomSpec(
        layers=sequence(flat=kinds.Flatten(), head=kinds.Linear(features=2)), size=(2, 2), num_classes=2, in_channels=1
    )
    with pytest.raises(ValueError, match="per_step must be False: the custom does not end in a mean over time"):
        sbp_keras.Network(endless, per_step=True)


def test_dropout_drops_the_same_at_every_step():
    layers = sequence(
        stem=sequence(repeat=kinds.Repeat(time_steps=STEPS), drop=kinds.Dropout(rate=0.5), neuron=kinds.Neuron()),
        pool=kinds.GlobalPool(),
        mean=kinds.TimeMean(),
    )
    net = sbp_keras.Network(CustomSpec(layers=layers, num_classes=64, in_channels=64, time_steps=STEPS), (2, 2, 64))
    drop = net.get_layer("stem_drop")
    dropped = numpy(drop(np.ones((8, STEPS, 2, 2, 64), "float32"), training=True))
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 0.4 < (dropped == 0).mean() < 0.6
    assert not np.array_equal(dropped[0], dropped[1])
    np.testing.assert_array_equal(numpy(drop(dropped, training=False)), dropped)


@pytest.mark.parametrize("space", [1, 2, 3])
@pytest.mark.parametrize(("groups", "outputs"), [(1, 6), (2, 6), (4, 8)])
def test_convolutions_of_any_rank_and_groups_equal_the_oracle(space, groups, outputs):
    from sbp_core.reference.layers import Tape, run

    layer = kinds.Conv(channels=outputs, kernel=3, stride=2, padding=2, groups=groups, bias=True)
    random = np.random.default_rng(space)
    x = random.normal(size=(STEPS, 2, 4, *(5, 4, 3)[:space]))
    shape = kinds.Shape(4, x.shape[3:])
    weights = {path: random.normal(size=found.shape) for path, found in layer.parameters(shape).items()}
    tape = Tape({f"here.{path}": value for path, value in weights.items()}, training=True)
    expected, back = run(tape, layer, "here", x, space)
    cotangent = random.normal(size=expected.shape)
    of_x = back(cotangent)

    def turned(array):
        return np.moveaxis(np.swapaxes(array, 0, 1), 2, -1)

    with ENGINE.precision("float64"):
        made = LAYERS[kinds.Conv](layer, shape, {"name": "conv", "dtype": "float64"})
        made.build((2, STEPS, *x.shape[3:], 4))
        kernel = np.moveaxis(weights["weight"], (0, 1), (-1, -2))
        values = [ENGINE.array(value, "float64") for value in (turned(x), kernel, weights["bias"])]

        def convolve(x, *given):
            with keras.StatelessScope(list(zip(made.weights, given, strict=True))):
                return [made(x)]

        (found,), gradients = ENGINE.vjp(convolve, values, [ENGINE.array(turned(cotangent), "float64")], "eager")
        assert made.compute_output_shape((2, STEPS, *x.shape[3:], 4)) == tuple(found.shape)
        np.testing.assert_allclose(numpy(found), turned(expected), **EXACT)
        wanted = (
            turned(of_x),
            np.moveaxis(tape.gradients["here.weight"], (0, 1), (-1, -2)),
            tape.gradients["here.bias"],
        )
        for gradient, value in zip(gradients, wanted, strict=True):
            np.testing.assert_allclose(numpy(gradient), value, **EXACT)


@pytest.mark.parametrize("kind", [kinds.MaxPool, kinds.AvgPool])
@pytest.mark.parametrize("space", [1, 2, 3])
def test_pools_of_any_rank_equal_the_oracle_before_and_behind_time(kind, space):
    from sbp_core.reference.layers import Tape, run

    layer = kind(kernel=3, stride=2, padding=1)
    x = np.random.default_rng(space).normal(size=(2, 4, *(5, 4, 3)[:space]))
    expected, _ = run(Tape({}, training=True), layer, "here", x, space)
    made = LAYERS[kind](layer, kinds.Shape(4, x.shape[2:]), {"name": "pool", "dtype": "float32"})
    given = np.moveaxis(x, 1, -1).astype("float32")
    np.testing.assert_allclose(numpy(made(given)), np.moveaxis(expected, 1, -1), rtol=0, atol=1e-6)
    timed = np.stack([given, 2 * given], axis=1)
    np.testing.assert_allclose(numpy(made(timed))[:, 1], 2 * np.moveaxis(expected, 1, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [(2, 2), (5, 4), (None, None)])
def test_attention_takes_the_smaller_product_and_maps_of_any_size(tokens):
    join = joins.Attention(heads=2, scale=0.3)
    layer = Weightless(join, 2)
    q, k, v = np.random.default_rng(7).normal(size=(3, 2, STEPS, 5, 4, 8)).astype("float32")
    if None not in tokens:
        q, k, v = (end[:, :, : tokens[0], : tokens[1]] for end in (q, k, v))
    ends = [keras.Input((STEPS, *tokens, 8)) for _ in range(3)]
    net = keras.Model(ends, layer(ends))
    assert net.output_shape == (None, STEPS, *tokens, 8)
    parts = (end.reshape(2, STEPS, -1, 2, 4).astype("float64") for end in (q, k, v))
    expected = 0.3 * np.einsum("btihc,btjhc,btjhd->btihd", *parts).reshape(q.shape)
    np.testing.assert_allclose(net.predict([q, k, v], verbose=0), expected, rtol=1e-4, atol=1e-4)


def test_weights_start_as_the_spec_says():
    keras.utils.set_random_seed(0)
    layers = sequence(
        conv=kinds.Conv(channels=200, initial="uniform", bias=True, groups=2),
        deep=kinds.Conv(channels=64, groups=4),
        norm=kinds.BatchNorm(scale=0.3),
        flat=kinds.GlobalPool(),
        head=kinds.Linear(features=100),
    )
    weights = sbp_keras.export_weights(sbp_keras.Network(CustomSpec(layers=layers, num_classes=100, in_channels=8)))
    for path, inputs in (("conv.weight", 36), ("conv.bias", 36), ("head.weight", 64), ("head.bias", 64)):
        bound = inputs**-0.5
        assert 0.8 * bound < np.abs(weights[path]).max() <= bound
        assert weights[path].std() == pytest.approx(bound / np.sqrt(3), rel=0.2)
    assert weights["deep.weight"].std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)
    assert np.all(weights["norm.weight"] == np.float32(0.3))


def test_names_are_those_of_paths_and_never_twice():
    layers = sequence(
        stem=sequence(bn=kinds.BatchNorm(), repeat=kinds.Repeat(time_steps=2)),
        stem_bn=sequence(neuron=kinds.Neuron(), repeat=kinds.Repeat(time_steps=2)),
        two=Parallel(paths=(("repeat", kinds.BatchNorm()), ("b", sequence(repeat=kinds.Repeat(time_steps=2))))),
        deep=numbered(numbered(kinds.BatchNorm(), kinds.Neuron())),
        flat=kinds.GlobalPool(),
        mean=kinds.TimeMean(),
    )
    spec = CustomSpec(layers=layers, num_classes=2, in_channels=2, time_steps=2)
    names = layer_names(spec)
    assert names["stem.bn"] == "stem"
    assert names["stem_bn.neuron"] == "stem_bn"
    assert names["stem.repeat"] == "repeat"
    assert names["two.add"] == "two"
    assert names["deep.0.0"] == "deep_0_0"
    assert names["deep.0.1"] == "deep"
    assert len(set(names.values())) == len(names)
    x = np.random.default_rng(8).normal(size=(2, 4, 4, 2)).astype("float32")
    still = sbp_keras.Network(spec, (4, 4, 2))
    frames = sbp_keras.Network(spec, (2, 4, 4, 2))
    sbp_keras.import_weights(frames, sbp_keras.export_weights(still))
    np.testing.assert_allclose(
        numpy(frames(np.stack([x, x], axis=1))), numpy(still(x)), rtol=0, atol=1e-6, err_msg="a repeat of frames"
    )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg", (8, 8, 2), r"input_shape \(8, 8, 2\) .*must be of size \(8, 6\), as the custom says; got \(8, 8\)"),
        ("vgg", (STEPS, 8, 8, 2), r"input_shape .*must be of size \(8, 6\)"),
        ("frames only", (8, 8, 2), "images must be event frames, with an axis of time"),
        ("vgg", (8, 6, 3), "input_shape must end in the spec's in_channels, 2; got"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        sbp_keras.Network(SPECS[name], shape)


def test_a_size_that_is_left_out_is_the_specs():
    assert sbp_keras.Network(SPECS["vgg"], (None, None, 2)).input_shape == (None, 8, 6, 2)
    assert sbp_keras.Network(SPECS["vgg"]).input_shape == (None, 8, 6, 2)
    assert sbp_keras.Network(SPECS["frames only"]).input_shape == (None, STEPS, 32, 32, 2)
    assert sbp_keras.network("resnet20", (None, None, 1), widths=(2, 2, 4)).input_shape == (None, None, None, 1)


def test_a_network_of_the_zoo_is_found_by_its_name():
    net = sbp_keras.network("resnet20", (8, 8, 1), num_classes=4, name="small")
    assert isinstance(net, sbp_keras.ResNet)
    assert (net.spec.num_classes, net.spec.in_channels, net.name) == (4, 1, "small")
    assert sbp_keras.network(net.spec, (8, 8, 1), num_classes=3).output_shape == (None, 3)
    with pytest.raises(ValueError, match=r"name must be one of .*did you mean 'resnet20'"):
        sbp_keras.network("resnet200")


def test_a_factor_for_each_step_refuses_another_number_of_steps():
    with pytest.raises(ValueError, match="a factor for each of 3 steps, got 2 steps"):
        sbp_keras.steps.TimeScale(3)(np.ones((2, 2, 4), "float32"))


def test_the_mean_over_time_leaves_out_what_a_mask_does():
    x = np.random.default_rng(9).normal(size=(2, STEPS, 4)).astype("float32")
    mask = np.array([[True, False, True], [True, True, True]])
    inputs = keras.Input((STEPS, 4))
    masked = keras.Model(inputs, sbp_keras.steps.TimeMean()(Weightless(kinds.Vote(voters=2), 0)(inputs)))
    found = numpy(masked(x, mask=ops.convert_to_tensor(mask)))
    votes = x.reshape(2, STEPS, 2, 2).mean(-1)
    np.testing.assert_allclose(found, [votes[0, ::2].mean(0), votes[1].mean(0)], rtol=0, atol=1e-6)


def test_a_layer_without_weights_says_what_it_takes():
    known = ", ".join(kind.__name__ for kind in FUNCTIONS)
    with pytest.raises(TypeError, match=f"spec must be one of {known}; got Conv"):
        Weightless(kinds.Conv(channels=2))
    with pytest.raises(ValueError, match="the input must have a batch, 2 axes of space and channels, got shape"):
        Weightless(kinds.GlobalPool(), 2).compute_output_shape((None, 3))


def test_a_kind_without_a_layer_says_so_until_it_has_one():
    @dataclass(frozen=True, kw_only=True)
    class Softplus(kinds.LayerSpec):
        kind: ClassVar[str] = "softplus of a Keras test"

        def output(self, shape):
            return shape

    spec = CustomSpec(layers=sequence(act=Softplus(), flat=kinds.GlobalPool()), num_classes=3)
    with pytest.raises(TypeError, match="layer 'act': Keras has no layer for the kind 'softplus of a Keras test'"):
        sbp_keras.Network(spec)
    LAYERS[Softplus] = lambda layer, shape, options: keras.layers.Activation("softplus", **options)
    try:
        found = numpy(sbp_keras.Network(spec)(np.zeros((1, 4, 32, 32, 3), "float32")))
        np.testing.assert_allclose(found, np.full((1, 4, 3), np.log(2.0)), rtol=1e-4)
    finally:
        del LAYERS[Softplus]
