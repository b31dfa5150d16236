"""The spiking ResNet and its weights; every test runs on whichever backend Keras is set to."""

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import LIFSpec, Rectangle, ResNetSpec
from sbp_core.reference.neuron import forward

SPEC = ResNetSpec(depths=(1, 1), widths=(4, 6), num_classes=5, in_channels=2, time_steps=3)


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def random_weights(spec, seed=0):
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in spec.parameter_shapes().items():
        value = rng.normal(size=shape)
        if name.endswith((".running_var", "bn.weight", "bn1.weight", "bn2.weight")):
            value = 0.5 + np.abs(value)
        weights[name] = value.astype("float32")
    return weights


def convolve(x, weight, stride):
    """Cross-correlation of ``(..., height, width, channels)`` with an OIHW kernel, padded alike on all sides."""
    pad = weight.shape[-1] // 2
    x = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(pad, pad), (pad, pad), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[-2:], axis=(-3, -2))
    return np.einsum("...hwcij,ocij->...hwo", windows[..., ::stride, ::stride, :, :, :], weight)


def resnet_by_hand(spec, weights, images):
    """The network of the spec in inference, in float64 NumPy; time leads, channels are last."""

    def norm(x, name):
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return (x - mean) / np.sqrt(var + spec.batch_norm_epsilon) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def fire(x):
        return forward(spec.neuron, x)[0]

    weights = {name: value.astype("float64") for name, value in weights.items()}
    large = spec.stem == "imagenet"
    x = norm(convolve(images.astype("float64"), weights["stem.conv.weight"], 2 if large else 1), "stem.bn")
    x = fire(np.stack([x] * spec.time_steps) if images.ndim == 4 else x)
    if large:
        padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        x = windows[:, :, ::2, ::2].max(axis=(-2, -1))
    stages = {"stem": x}
    for stage, depth in zip(spec.stage_names, spec.depths, strict=True):
        for index in range(depth):
            prefix, stride = f"{stage}.{index}", 2 if stage != "layer1" and index == 0 else 1
            y = fire(norm(convolve(x, weights[f"{prefix}.conv1.weight"], stride), f"{prefix}.bn1"))
            y = norm(convolve(y, weights[f"{prefix}.conv2.weight"], 1), f"{prefix}.bn2")
            if f"{prefix}.downsample.conv.weight" in weights:
                shortcut = convolve(x, weights[f"{prefix}.downsample.conv.weight"], stride)
                x = norm(shortcut, f"{prefix}.downsample.bn")
            x = fire(y + x)
        stages[stage] = x
    logits = x.mean(axis=(2, 3)) @ weights["head.weight"].T + weights["head.bias"]
    return logits.mean(axis=0), stages


@pytest.mark.parametrize(("stem", "size"), [("cifar", 8), ("imagenet", 7)])
def test_the_network_of_a_spec_is_the_one_written_by_hand(stem, size):
    spec = SPEC.replace(stem=stem)
    images = np.random.default_rng(1).normal(size=(2, size, size, 2)).astype("float32")
    net = sbp_keras.resnet(spec, (size, size, 2))
    weights = random_weights(spec)
    sbp_keras.import_weights(net, weights)
    logits, stages = resnet_by_hand(spec, weights, images)
    probe = keras.Model(net.input, [*(net.get_layer(name).output for name in stages), net.output])
    *blocks, main = probe.predict(images, verbose=0)
    for got, wanted in zip(blocks, stages.values(), strict=True):
        np.testing.assert_array_equal(got, np.swapaxes(wanted, 0, 1))
    assert 0.05 < stages["layer2"].mean() < 0.95
    np.testing.assert_allclose(main, logits, rtol=0, atol=1e-5)


def test_the_pool_pads_with_nothing_rather_than_zeros():
    x = -1.0 - np.random.default_rng(6).random((2, 3, 4, 5, 2)).astype("float32")
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    layer = sbp_keras.StepMaxPooling2D()
    expected = windows[:, :, ::2, ::2].max(axis=(-2, -1))
    np.testing.assert_array_equal(numpy(layer(x)), expected)
    assert layer.compute_output_shape(x.shape) == expected.shape


def test_frames_are_each_encoded():
    frames = np.random.default_rng(2).normal(size=(2, 4, 6, 6, 2)).astype("float32")
    weights = random_weights(SPEC)
    logits, _ = resnet_by_hand(SPEC, weights, np.swapaxes(frames, 0, 1))
    for spec, shape in ((SPEC.replace(time_steps=4), (4, 6, 6, 2)), (SPEC, (None, 6, 6, 2))):
        net = sbp_keras.resnet(spec, shape)
        sbp_keras.import_weights(net, weights)
        np.testing.assert_allclose(net.predict(frames, verbose=0), logits, rtol=0, atol=1e-5)
    # time first, or another number of steps
    with pytest.raises(ValueError, match=r"time_steps=3, got \(4, 6, 6, 2\); pass time_steps=4, or None"):
        sbp_keras.resnet(SPEC, (4, 6, 6, 2))
    config = sbp_keras.resnet(SPEC, (3, 6, 6, 2)).get_config() | {"input_shape": [4, 6, 6, 2]}
    assert sbp_keras.ResNet.from_config(config).input_shape == (None, 4, 6, 6, 2)  # files of before


def test_weights_have_the_canonical_names_and_layouts():
    net = sbp_keras.resnet34((8, 8, 3), widths=(2, 2, 4, 6), time_steps=1, neuron=LIFSpec(learn_decay=True))
    assert net.spec.layers == 34
    weights = sbp_keras.export_weights(net)
    assert {name: value.shape for name, value in weights.items()} == net.spec.parameter_shapes()
    assert weights["head.weight"].shape == (10, 6)
    assert [net.get_layer(name).output.shape[-1] for name in ("stem", *net.spec.stage_names)] == [2, 2, 2, 4, 6]


def test_weights_survive_a_round_trip_and_bad_ones_write_nothing():
    net = sbp_keras.resnet(SPEC, (6, 6, 2))
    weights = random_weights(SPEC)
    sbp_keras.import_weights(net, weights)
    for name, value in sbp_keras.export_weights(net).items():
        np.testing.assert_array_equal(value, weights[name])
    zeros = {name: np.zeros_like(value) for name, value in weights.items()}
    with pytest.raises(ValueError, match=r"missing: 'head.bias'"):
        sbp_keras.import_weights(net, {name: value for name, value in zeros.items() if name != "head.bias"})
    with pytest.raises(ValueError, match=r"unknown: 'tail'"):
        sbp_keras.import_weights(net, zeros | {"tail": np.zeros(1)})
    with pytest.raises(ValueError, match=r"'head.weight'\] must have shape \(5, 6\), got \(6, 5\)"):
        sbp_keras.import_weights(net, zeros | {"head.weight": np.zeros((6, 5))})
    for kind in ("int64", "bool", "complex64"):
        with pytest.raises(TypeError, match=r"'head.bias'\] must hold floating-point numbers"):
            sbp_keras.import_weights(net, zeros | {"head.bias": np.zeros(5, kind)})
    for name, value in sbp_keras.export_weights(net).items():
        np.testing.assert_array_equal(value, weights[name])


def test_a_shortcut_names_its_main_model_and_its_branches():
    net = sbp_keras.resnet(SPEC, (6, 6, 2))
    model = sbp_keras.ShortcutModel(net, ["stem", "layer1"], 5)
    weights = sbp_keras.export_weights(model)
    branches = {f"branches.{tap}.{part}" for tap in ("stem", "layer1") for part in ("weight", "bias")}
    assert set(weights) == {f"main.{name}" for name in SPEC.parameter_shapes()} | branches
    np.testing.assert_array_equal(weights["branches.layer1.weight"], numpy(model.branches[1].kernel).T)
    changed = {name: value + 1 for name, value in weights.items()}
    sbp_keras.import_weights(model, changed)
    np.testing.assert_array_equal(numpy(model.branches[0].bias), changed["branches.stem.bias"])


def test_other_branches_have_names_of_their_own_or_are_refused():
    def stacked(channels, classes):
        return keras.Sequential([keras.layers.GlobalAveragePooling3D(), keras.layers.Dense(classes, name="last")])

    shapes = {
        "convolutional": {
            "conv.weight": (4, 4, 3, 3),
            **{f"bn.{part}": (4,) for part in ("weight", "bias", "running_mean", "running_var")},
            "linear.weight": (5, 4),
            "linear.bias": (5,),
        },
        stacked: {"last.weight": (5, 4), "last.bias": (5,)},
    }
    for branch, parts in shapes.items():
        model = sbp_keras.ShortcutModel(sbp_keras.resnet(SPEC, (6, 6, 2)), ["stem"], 5, branch=branch)
        weights = sbp_keras.export_weights(model)
        assert len(weights) == len(model.weights) - 2
        for part, shape in parts.items():
            assert weights[f"branches.stem.{part}"].shape == shape
        sbp_keras.import_weights(model, {name: value + 1 for name, value in weights.items()})
        for name, value in sbp_keras.export_weights(model).items():
            np.testing.assert_array_equal(value, weights[name] + 1)


def test_two_weights_that_would_share_a_name_are_refused():
    class Two(keras.layers.Layer):
        def build(self, shape):
            self.kernels = [self.add_weight(name="kernel", shape=(3, 2)) for _ in range(2)]

        def call(self, inputs):
            return inputs @ self.kernels[0] @ ops.transpose(self.kernels[1])

    net = keras.Sequential([keras.Input((3,)), Two(name="two")])
    with pytest.raises(ValueError, match=r"would share the name 'two\.weight'"):
        sbp_keras.export_weights(net)


def test_any_functional_model_names_its_weights_by_layer():
    inputs = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="first")], name="inner")
    net = keras.Model(inputs, keras.layers.Dense(2, name="last")(inner(inputs)))
    weights = sbp_keras.export_weights(net)
    assert {name: value.shape for name, value in weights.items()} == {
        "inner.first.weight": (3, 6),
        "inner.first.bias": (3,),
        "last.weight": (2, 3),
        "last.bias": (2,),
    }
    odd = keras.Model(inputs, keras.layers.PReLU()(inputs))
    with pytest.raises(ValueError, match="has no shared name"):
        sbp_keras.export_weights(odd)


def test_batch_norm_moves_its_variance_by_the_unbiased_one():
    x = np.random.default_rng(3).normal(2.0, 3.0, (2, 3, 2, 2, 4)).astype("float32")
    layer = sbp_keras.BatchNormalization(momentum=0.75, epsilon=1e-5)
    output = numpy(layer(x, training=True))
    double = x.astype("float64")
    mean, axes = double.mean(axis=(0, 1, 2, 3)), (0, 1, 2, 3)
    np.testing.assert_allclose(output, (double - mean) / np.sqrt(double.var(axis=axes) + 1e-5), rtol=0, atol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_mean), 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_variance), 0.75 + 0.25 * double.var(axis=axes, ddof=1), rtol=1e-5)
    still = numpy(layer.moving_variance)
    layer(x)
    np.testing.assert_array_equal(numpy(layer.moving_variance), still)


def test_batch_norm_moves_inside_fit_too():
    x = np.random.default_rng(4).normal(2.0, 3.0, (8, 3, 4)).astype("float32")
    inputs = keras.Input((3, 4))
    net = keras.Model(inputs, sbp_keras.BatchNormalization(momentum=0.75, name="bn")(inputs))
    net.compile("sgd", "mse")
    net.fit(x, x, batch_size=8, verbose=0)
    variance = x.astype("float64").var(axis=(0, 1), ddof=1)
    np.testing.assert_allclose(numpy(net.get_layer("bn").moving_variance), 0.75 + 0.25 * variance, rtol=1e-5)


def test_weights_start_as_the_convention_says():
    keras.utils.set_random_seed(0)
    net = sbp_keras.resnet(ResNetSpec(depths=(1,), widths=(64,), num_classes=100, in_channels=16), (4, 4, 16))
    weights = sbp_keras.export_weights(net)
    kernel = weights["stem.conv.weight"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)
    assert np.abs(kernel).max() > 3 * kernel.std()
    for part in ("weight", "bias"):
        value = weights[f"head.{part}"]
        assert np.abs(value).max() <= 1 / 8
        assert value.std() == pytest.approx(1 / 8 / np.sqrt(3), rel=0.2)
    assert np.all(weights["layer1.0.bn2.weight"] == 1)
    assert np.all(weights["layer1.0.bn2.bias"] == 0)


def test_a_network_is_saved_loaded_and_cloned(tmp_path):
    x = np.random.default_rng(5).normal(size=(2, 6, 6, 2)).astype("float32")
    spec = SPEC.replace(neuron=LIFSpec(learn_decay=True, surrogate=Rectangle(width=2.0)))
    net = sbp_keras.resnet(spec, (6, 6, 2), name="small")
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert (loaded.spec, loaded.name, loaded.input_shape) == (spec, "small", (None, 6, 6, 2))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), net.predict(x, verbose=0))
    half = sbp_keras.resnet(SPEC, (6, 6, 2), dtype="mixed_bfloat16")
    again = sbp_keras.ResNet.from_config(half.get_config())
    assert {layer.compute_dtype for layer in again.layers[1:]} == {"bfloat16"}


def test_a_bad_shape_or_spec_is_refused():
    with pytest.raises(ValueError, match="in_channels, 2"):
        sbp_keras.resnet(SPEC, (6, 6, 3))
    with pytest.raises(ValueError, match="input_shape must be"):
        sbp_keras.resnet(SPEC, (6, 2))
    with pytest.raises(TypeError, match="spec must be a NetworkSpec"):
        sbp_keras.resnet(LIFSpec(), (6, 6, 2))
    with pytest.raises(ValueError, match="time_steps must be at least 1"):
        sbp_keras.resnet18((8, 8, 3), time_steps=0)
