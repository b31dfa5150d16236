"""Every layer of this package in float64, and what PyTorch exported; on whichever backend Keras is set to."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import Evolutionary, LIFSpec, LossSpec, ResNetSpec
from sbp_core.reference.neuron import forward

RANDOM = np.random.default_rng(20261126)
EXACT = {"rtol": 1e-13, "atol": 1e-13}


@pytest.fixture(autouse=True)
def _in_double():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    if keras.backend.backend() == "jax":
        jax.config.update("jax_enable_x64", False)


def numpy(tensor):
    found = np.asarray(ops.convert_to_numpy(tensor))
    assert found.dtype == "float64"
    return found


def draw(layer):
    """Give the layer's weights values that float32 has not."""
    for weight in layer.weights:
        low = 0.5 if weight.name in ("gamma", "moving_variance") else -1.0
        weight.assign(RANDOM.uniform(low, 1.5, tuple(weight.shape)))


def batch_norm(x, norm, training, weights=None):
    axes = tuple(range(x.ndim - 1))
    mean, variance = numpy(norm.moving_mean), numpy(norm.moving_variance)
    if training:
        weights = np.ones(x.shape[:-1]) if weights is None else weights
        mean = (x * weights[..., None]).sum(axis=axes) / weights.sum()
        variance = ((x - mean) ** 2 * weights[..., None]).sum(axis=axes) / weights.sum()
    return (x - mean) / np.sqrt(variance + norm.epsilon) * numpy(norm.gamma) + numpy(norm.beta), mean, variance


def convolve(x, kernel):
    """A 3 x 3 convolution of ``(..., height, width, channels)`` with one zero round it."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(-3, -2))
    return np.einsum("...hwcij,ijco->...hwo", windows, kernel)


@pytest.mark.parametrize("training", [False, True])
def test_the_convolutional_branch(training):
    x = RANDOM.normal(size=(3, 2, 5, 4, 3))
    branch = sbp_keras.ConvolutionalReadout(4)
    branch.build(x.shape)
    draw(branch)
    start = numpy(branch.norm.moving_mean), numpy(branch.norm.moving_variance)
    maps, mean, variance = batch_norm(convolve(x, numpy(branch.convolution.kernel)), branch.norm, training)
    expected = (np.maximum(maps, 0.0).mean(axis=(2, 3)) @ numpy(branch.kernel) + numpy(branch.bias)).mean(axis=1)
    np.testing.assert_allclose(numpy(branch(x, training=training)), expected, **EXACT)
    if training:
        n = x[..., 0].size
        np.testing.assert_allclose(numpy(branch.norm.moving_mean), 0.9 * start[0] + 0.1 * mean, **EXACT)
        moved = 0.9 * start[1] + 0.1 * variance * n / (n - 1)
        np.testing.assert_allclose(numpy(branch.norm.moving_variance), moved, **EXACT)


def test_batch_norm_of_what_a_mask_leaves_in():
    x, mask = RANDOM.normal(size=(3, 4, 5)), np.arange(4) < np.array([2, 4, 1])[:, None]
    norm = sbp_keras.BatchNormalization(momentum=0.9, epsilon=1e-5)
    norm.build(x.shape)
    draw(norm)
    start = numpy(norm.moving_variance)
    expected, _, variance = batch_norm(x, norm, True, mask.astype("float64"))
    np.testing.assert_allclose(numpy(norm(x, training=True, mask=ops.convert_to_tensor(mask))), expected, **EXACT)
    moved = 0.9 * start + 0.1 * variance * 7 / 6
    np.testing.assert_allclose(numpy(norm.moving_variance), moved, **EXACT)
    single = sbp_keras.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float32")
    single.build(x.shape)
    single.set_weights([numpy(norm.gamma), numpy(norm.beta), np.zeros(5), start])
    found = single(x.astype("float32"), training=True, mask=ops.convert_to_tensor(mask))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(single.moving_variance), moved, rtol=0, atol=1e-5)


def test_convolution_pool_and_readout():
    x = RANDOM.normal(size=(2, 3, 6, 4, 3))
    convolution = sbp_keras.StepConv2D(2, 3)
    convolution.build(x.shape)
    draw(convolution)
    np.testing.assert_allclose(numpy(convolution(x)), convolve(x, numpy(convolution.kernel)), **EXACT)
    np.testing.assert_array_equal(numpy(sbp_keras.StepMaxPooling2D(3, 1)(x)).max(), x.max())
    for per_step in (False, True):
        head = sbp_keras.Readout(2, per_step=per_step)
        head.build(x.shape)
        draw(head)
        expected = x.mean(axis=(2, 3)) @ numpy(head.kernel) + numpy(head.bias)
        np.testing.assert_allclose(numpy(head(x)), expected if per_step else expected.mean(axis=1), **EXACT)


def test_a_learnt_decay_starts_where_it_says():
    x = RANDOM.normal(size=(2, 3, 4))
    layer = sbp_keras.LIF(LIFSpec(decay=0.3, learn_decay=True), return_state=True)
    output, state = layer(x)
    expected, final = forward(LIFSpec(decay=0.3), np.swapaxes(x, 0, 1))
    np.testing.assert_array_equal(numpy(output), np.swapaxes(expected, 0, 1))
    np.testing.assert_allclose(numpy(state.potential), final.potential, **EXACT)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_losses_and_the_coefficient(combine, per_step):
    spec = LossSpec(combine=combine, per_step=per_step, label_smoothing=0.1, level_weight=0.3)
    inputs = keras.Input((3, 4))
    net = keras.Model(inputs, sbp_keras.Readout(2)(sbp_keras.LIF(name="fire")(inputs)))
    model = sbp_keras.ShortcutModel(net, ["fire"], 2, loss_spec=spec, coefficient=0.1)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = RANDOM.normal(size=(2, 3, 4)), np.array([0, 1])
    assert float(numpy(model.coefficient)) == 0.1
    output = model(x, training=True)
    keep = keras.Model(inputs, net.get_layer("fire").output)(x)
    main, branch = (
        numpy(keep) @ numpy(layer.kernel) + numpy(layer.bias) for layer in (net.layers[-1], *model.branches)
    )
    if not per_step:
        main, branch = main.mean(axis=1), branch.mean(axis=1)

    def supervised(logits, of_keras=True):
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        # Keras's own divides in float32 on PyTorch (Keras 3.15)
        rows = ops.convert_to_tensor(np.repeat(y, 3) if per_step else y), ops.convert_to_tensor(logits.reshape(-1, 2))
        entropy = 0.9 * (
            float(ops.convert_to_numpy(model.loss(*rows))) if of_keras else -log_p[np.arange(2), ..., y].mean()
        )
        entropy -= 0.1 * log_p.mean()
        return 0.7 * entropy + 0.3 * ((logits - 1.0) ** 2).mean() if per_step else entropy

    parts = (main + 0.1 * branch,) if combine == "logits" else (main, branch)
    expected = supervised(parts[0]) + 0.1 * sum(map(supervised, parts[1:]))
    np.testing.assert_allclose(numpy(model.compute_loss(x, ops.convert_to_tensor(y), output)), expected, **EXACT)
    if combine == "losses":
        found = sbp_keras.ShortcutLoss(spec)(output, y, 0.1)
        expected = supervised(main, of_keras=False) + 0.1 * supervised(branch, of_keras=False)
        np.testing.assert_allclose(numpy(found), expected, **EXACT)

    model.schedule = Evolutionary(initial=0.3, total_steps=7)
    model(x, training=True)
    np.testing.assert_allclose(float(numpy(model.coefficient)), 0.3 * (6 / 7), rtol=1e-15)


SPEC = ResNetSpec(depths=(1, 1), widths=(4, 6), in_channels=2, num_classes=5, time_steps=3)
TAPS, COEFFICIENT = ("stem", "layer1"), 0.75
IN_TORCH = """
import sys
import numpy as np, torch, sbp_torch
from sbp_core import ResNetSpec
spec = ResNetSpec(depths=(1, 1), widths=(4, 6), in_channels=2, num_classes=5, time_steps=3)
torch.manual_seed(0)
images, labels = torch.randn(4, 2, 7, 6, dtype=torch.float64), torch.tensor([0, 3, 4, 1])
net = sbp_torch.ResNet(spec)
model = sbp_torch.Shortcut(net, ("stem", "layer1"), 5, sample=images[:2].float(), branch="convolutional").double()
with torch.no_grad():
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.linspace(0.1, 0.4, len(tensor), dtype=tensor.dtype))
found = {f"before/{name}": value for name, value in sbp_torch.export_weights(model).items()}
model.set_coefficient(0.75)
logits = model.train()(images)
torch.nn.functional.cross_entropy(logits, labels).backward()
found |= {f"after/{name}": value for name, value in sbp_torch.export_weights(model).items()}
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(parameter.grad)
found |= {f"gradient/{name}": value for name, value in sbp_torch.export_weights(model).items()}
np.savez(sys.argv[1], images=images.numpy(), labels=labels.numpy(), logits=logits.detach().numpy(), **found)
"""


def test_a_convolutional_shortcut_of_torch_computes_and_learns_the_same_here(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed: it is the oracle here")
    path = tmp_path / "torch.npz"
    # in a process of its own: not every framework bears another beside it
    result = subprocess.run(
        [sys.executable, "-c", IN_TORCH, str(path)], capture_output=True, text=True, env=os.environ, timeout=200
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = np.load(path)

    def group(name):
        return {key.partition("/")[2]: found[key] for key in found.files if key.startswith(f"{name}/")}

    before, after, gradients = group("before"), group("after"), group("gradient")
    model = sbp_keras.ShortcutModel(
        sbp_keras.resnet(SPEC, (7, 6, 2)), TAPS, 5, branch="convolutional", coefficient=COEFFICIENT
    )
    sbp_keras.import_weights(model, before)
    assert set(sbp_keras.export_weights(model)) == set(before)
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = np.moveaxis(found["images"], 1, -1), found["labels"]
    logits = numpy(model(images, training=True))
    np.testing.assert_allclose(logits, found["logits"], rtol=1e-12, atol=1e-12)
    sbp_keras.import_weights(model, before)
    model.train_on_batch(images, labels)
    learnt = sbp_keras.export_weights(model)
    for name in before:
        wanted = after[name] if ".running_" in name else before[name] - gradients[name]
        np.testing.assert_allclose(learnt[name], wanted, rtol=1e-12, atol=1e-12, err_msg=name)
    moved = [name for name in before if name.startswith("branches") and np.any(learnt[name] != before[name])]
    assert len(moved) == 2 * 7
