"""The ResNet, against a whole network in NumPy from the same canonical weights."""

import numpy as np
import pytest
import tensorflow as tf

import sbp_tf
from sbp_core import LIFSpec, ResNetSpec
from sbp_core.reference.networks import initial_weights

SMALL = ResNetSpec(depths=(1, 2), widths=(3, 4), num_classes=5, time_steps=3, neuron=LIFSpec(decay=0.75))


def images(shape=(2, 6, 6, 3), seed=5):
    return np.random.default_rng(seed).normal(size=shape)


def convolve(x, kernel, stride):
    """Cross-correlation of ``(..., H, W, C)`` with OIHW, padded alike on all sides, written as sums of shifted maps."""
    size = kernel.shape[-1]
    width = size // 2
    edges = [(0, 0)] * (x.ndim - 3) + [(width, width), (width, width), (0, 0)]
    padded = np.pad(x, edges)
    rows = (x.shape[-3] + 2 * width - size) // stride + 1
    columns = (x.shape[-2] + 2 * width - size) // stride + 1
    total = 0.0
    for i in range(size):
        for j in range(size):
            window = padded[..., i::stride, j::stride, :][..., :rows, :columns, :]
            total = total + window @ kernel[:, :, i, j].T
    return total


class Net:
    """The network of a spec in float64 NumPy; ``statistics`` are the running ones after a pass in training."""

    def __init__(self, spec, weights, training):
        self.spec, self.weights, self.training = spec, weights, training
        self.statistics = {}

    def batch_norm(self, x, name):
        mean, variance = self.weights[f"{name}.running_mean"], self.weights[f"{name}.running_var"]
        if self.training:
            flat = x.reshape(-1, x.shape[-1])
            momentum = self.spec.batch_norm_momentum
            self.statistics[f"{name}.running_mean"] = (1 - momentum) * mean + momentum * flat.mean(0)
            self.statistics[f"{name}.running_var"] = (1 - momentum) * variance + momentum * flat.var(0, ddof=1)
            mean, variance = flat.mean(0), flat.var(0)
        x = (x - mean) / np.sqrt(variance + self.spec.batch_norm_epsilon)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def neuron(self, x):
        potential, outputs = np.zeros(x.shape[1:]), []
        for c in x:
            potential = self.spec.neuron.decay * potential + c
            outputs.append((potential > 1.0) * 1.0)
            potential = np.where(potential > 1.0, 0.0, potential)
        return np.stack(outputs)

    def layer(self, x, convolution, norm, stride=1):
        return self.batch_norm(convolve(x, self.weights[f"{convolution}.weight"], stride), norm)

    def __call__(self, x):
        large = self.spec.stem == "imagenet"
        x = self.layer(x, "stem.conv", "stem.bn", 2 if large else 1)
        x = self.neuron(np.stack([x] * self.spec.time_steps) if x.ndim == 4 else x)
        if large:
            padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
            rows, columns = (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2
            shifts = [padded[:, :, i::2, j::2][:, :, :rows, :columns] for i in range(3) for j in range(3)]
            x = np.max(shifts, axis=0)
        for stage, blocks in self.spec.stages():
            for index, block in enumerate(blocks):
                name = f"{stage}.{index}"
                y = self.neuron(self.layer(x, f"{name}.conv1", f"{name}.bn1", block.stride))
                y = self.layer(y, f"{name}.conv2", f"{name}.bn2")
                if block.projects:
                    x = self.layer(x, f"{name}.downsample.conv", f"{name}.downsample.bn", block.stride)
                x = self.neuron(y + x)
        pooled = x.mean(axis=(2, 3))
        return (pooled @ self.weights["head.weight"].T + self.weights["head.bias"]).mean(0)


def built(spec, seed=7):
    """A network in double precision with weights that make it fire, and those weights."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, weight in initial_weights(spec, seed).items():
        low, high = (0.5, 1.5) if ".running_var" in name or (".bn" in name and name.endswith("weight")) else (-0.5, 0.5)
        weights[name] = weight.astype(np.float64) if weight.ndim > 1 else random.uniform(low, high, weight.shape)
    net = sbp_tf.ResNet(spec, dtype=tf.float64)
    sbp_tf.import_weights(net, weights)
    return net, weights


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("frames", [False, True])
def test_it_is_the_network_of_its_spec(frames, training):
    net, weights = built(SMALL)
    x = images((3, 2, 6, 6, 3)) if frames else images()
    oracle = Net(SMALL, weights, training)
    wanted = oracle(x)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(net(tf.constant(x), training=training).numpy(), wanted, rtol=1e-11)
    after = sbp_tf.export_weights(net)
    for name, value in (weights | oracle.statistics).items():
        np.testing.assert_allclose(after[name], value, rtol=1e-11, atol=1e-14, err_msg=name)


def test_the_large_stem_strides_by_two_and_pools():
    spec = SMALL.replace(stem="imagenet", depths=(1,), widths=(3,))
    net, weights = built(spec)
    x = images((2, 13, 12, 3))
    logits, tapped = net(tf.constant(x), taps=["stem"])
    assert tapped["stem"].shape.as_list() == [3, 2, 4, 3, 3]
    np.testing.assert_allclose(logits.numpy(), Net(spec, weights, False)(x), rtol=1e-11)


@pytest.mark.parametrize("compiled", [False, True])
def test_traced_and_compiled_it_gives_the_same_logits_and_gradients(compiled):
    net, _ = built(SMALL.replace(depths=(1, 1), time_steps=2))
    x = tf.constant(images())
    weight = tf.constant(np.random.default_rng(8).normal(size=(2, 5)))

    def run(x):
        with tf.GradientTape() as tape:
            logits = net(x, training=True)
            value = tf.reduce_sum(logits * weight)
        return logits, tape.gradient(value, net.trainable_variables)

    traced = tf.function(run, jit_compile=compiled)
    (logits, found), (expected, wanted) = traced(x), run(x)
    np.testing.assert_allclose(logits.numpy(), expected.numpy(), rtol=1e-11)
    for variable, a, b in zip(net.trainable_variables, found, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-10, err_msg=variable.name)
    traced(x)
    assert traced.experimental_get_tracing_count() == 1


def test_shapes_that_are_unknown_while_tracing_change_nothing():
    net, _ = built(SMALL)
    x = images()
    traced = tf.function(lambda x: net(x), input_signature=[tf.TensorSpec((None, None, None, 3), tf.float64)])
    np.testing.assert_allclose(traced(tf.constant(x)).numpy(), net(tf.constant(x)).numpy(), rtol=1e-12)
    looped = tf.function(lambda x: net(x), input_signature=[tf.TensorSpec((None, None, 6, 6, 3), tf.float64)])
    for steps in (2, 3):
        frames = np.stack([x] * steps)
        np.testing.assert_allclose(looped(tf.constant(frames)).numpy(), net(tf.constant(frames)).numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_it_computes_in_the_dtype_of_the_images(dtype):
    net = sbp_tf.ResNet(SMALL)
    logits = net(tf.constant(images(), dtype), training=True)
    assert logits.dtype.name == dtype
    assert bool(tf.reduce_all(tf.math.is_finite(logits)))
    assert {variable.dtype.name for variable in net.variables} == {"float32"}


def test_batch_norm_takes_its_statistics_in_float32():
    # 60000 squared is beyond float16
    norm = sbp_tf.BatchNorm(1, epsilon=1e-5, momentum=1.0)
    y = norm(tf.constant([[60000.0], [-60000.0]], tf.float16), training=True)
    assert y.dtype == tf.float16
    assert y.numpy().ravel().tolist() == [1.0, -1.0]
    np.testing.assert_allclose(norm.running_var.numpy(), [2 * (60000.0**2)], rtol=1e-3)


def test_batch_norm_of_one_value_stays_finite():
    norm = sbp_tf.BatchNorm(2, epsilon=1e-5, momentum=0.5)
    norm(tf.constant([[3.0, 4.0]]), training=True)
    assert norm.running_var.numpy().tolist() == [0.5, 0.5]


def test_initial_weights_have_the_stated_spread_and_follow_the_seed():
    tf.random.set_seed(1)
    first = sbp_tf.export_weights(sbp_tf.ResNet(SMALL.replace(widths=(32, 64))))
    tf.random.set_seed(1)
    second = sbp_tf.export_weights(sbp_tf.ResNet(SMALL.replace(widths=(32, 64))))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    kernel = first["layer2.0.conv2.weight"]
    assert kernel.shape == (64, 64, 3, 3)
    assert kernel.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert np.abs(first["head.weight"]).max() <= 1 / 8
    assert np.abs(first["head.weight"]).max() == pytest.approx(1 / 8, rel=0.05)


def test_weights_come_back_as_they_went_in():
    spec = SMALL.replace(neuron=LIFSpec(learn_decay=True))
    net, weights = built(spec)
    found = sbp_tf.export_weights(net)
    assert list(found) == list(spec.parameter_shapes())
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[name], weight)
    assert sum("decay_logit" in name for name in found) == sum("decay_logit" in v.name for v in net.trainable_variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), "weights lacks head.bias"),
        (lambda w: w.update(extra=np.zeros(1)), "weights has unknown extra"),
        (lambda w: w.update({"head.weight": np.zeros((4, 5))}), r"weights\['head.weight'\] must have shape \(5, 4\)"),
        (lambda w: w.update({"head.bias": np.array(list("abcde"))}), r"weights\['head.bias'\] must hold real numbers"),
    ],
)
def test_weights_that_do_not_fit_leave_the_net_as_it_was(change, message):
    net, _ = built(SMALL)
    before = sbp_tf.export_weights(net)
    weights = {name: weight + 1.0 for name, weight in before.items()}
    change(weights)
    with pytest.raises(ValueError, match=message):
        sbp_tf.import_weights(net, weights)
    for name, weight in sbp_tf.export_weights(net).items():
        np.testing.assert_array_equal(weight, before[name])


def test_weights_are_those_of_a_resnet():
    with pytest.raises(TypeError, match="net must be a ResNet or a Shortcut of one"):
        sbp_tf.export_weights(sbp_tf.LIF())


def test_the_usual_networks_have_their_depth_and_stages():
    net = sbp_tf.resnet34(num_classes=7, time_steps=2, widths=(1, 1, 1, 1))
    assert net.spec.layers == 34
    assert [len(getattr(net, stage).blocks) for stage in net.spec.stage_names] == [3, 4, 6, 3]
    assert sbp_tf.resnet18(widths=(1, 1, 1, 1)).spec.layers == 18
    assert net.head.bias.shape == (7,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda net: net(tf.ones((2, 6, 3))), ValueError, "images must have shape"),
        (lambda net: net(tf.ones((2, 3, 6, 6))), ValueError, "images must have 3 channels, their last axis"),
        (lambda net: net(tf.ones((2, 6, 6, 3), tf.uint8)), TypeError, "images must hold floating-point.*uint8"),
        (lambda net: net(tf.ones((2, 6, 6, 3)), training=tf.constant(True)), TypeError, "training must be True or"),
        (lambda net: net(tf.ones((2, 6, 6, 3)), taps=["layer9"]), ValueError, "network has: stem, layer1, layer2"),
        (lambda net: net(tf.ones((0, 2, 6, 6, 3))), ValueError, "at least one time step"),
        (lambda net: sbp_tf.ResNet("resnet18"), TypeError, "spec must be a ResNetSpec"),
        (lambda net: sbp_tf.resnet18(time_steps=0), ValueError, "time_steps must be at least 1"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(sbp_tf.ResNet(SMALL))
