"""The ResNet against a network written out in NumPy, and weights under their shared names."""

import numpy as np
import pytest
import torch

import sbp_torch
from sbp_core import LIFSpec, ResNetSpec, resnet34_spec
from sbp_core.reference.networks import initial_weights

SEED = 20261123
SMALL = ResNetSpec(depths=(1, 1), widths=(3, 4), in_channels=2, num_classes=5, time_steps=3)


def convolve(x, kernel, stride):
    """A convolution by its definition; x (items, channels, height, width)."""
    size = kernel.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, kernel)


def normalise(x, weights, name, running):
    axes, shape = (0, 2, 3), (1, -1, 1, 1)
    mean, variance, n = x.mean(axes), x.var(axes), x.size / x.shape[1]
    running[f"{name}.running_mean"] = 0.9 * weights[f"{name}.running_mean"] + 0.1 * mean
    running[f"{name}.running_var"] = 0.9 * weights[f"{name}.running_var"] + 0.1 * variance * n / (n - 1)
    scaled = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + 1e-5)
    return scaled * weights[f"{name}.weight"].reshape(shape) + weights[f"{name}.bias"].reshape(shape)


def fire(x):
    u, spikes = np.zeros_like(x[0]), []
    for c in x:
        u = 0.5 * u + c
        spikes.append(1.0 * (u > 1.0))
        u = u * (1 - spikes[-1])
    return np.stack(spikes)


def numpy_network(images, weights, spec):
    """A network of the spec in training mode; returns the logits and the running statistics afterwards."""
    running, steps = {}, spec.time_steps

    def layer(x, name, stride=1, bn=None):
        merged = normalise(
            convolve(x.reshape(-1, *x.shape[-3:]), weights[f"{name}.weight"], stride), weights, bn, running
        )
        return merged.reshape(*x.shape[:-3], *merged.shape[1:])

    x = fire(np.stack([layer(images, "stem.conv", bn="stem.bn")] * steps))
    for stage, stride in (("layer1.0", 1), ("layer2.0", 2)):
        hidden = fire(layer(x, f"{stage}.conv1", stride, f"{stage}.bn1"))
        residual = layer(hidden, f"{stage}.conv2", 1, f"{stage}.bn2")
        if stride == 2:
            x = layer(x, f"{stage}.downsample.conv", 2, f"{stage}.downsample.bn")
        x = fire(residual + x)
    return (x.mean((3, 4)) @ weights["head.weight"].T + weights["head.bias"]).mean(0), running


def test_the_resnet_equals_one_written_out_in_numpy():
    weights = {name: array.astype(np.float64) for name, array in initial_weights(SMALL, SEED).items()}
    random = np.random.default_rng(SEED)
    for name in weights:
        if "bn" in name:
            weights[name] = weights[name] + random.uniform(0, 0.5, weights[name].shape)
    images = random.uniform(-1, 2, (3, 2, 7, 7))
    net = sbp_torch.ResNet(SMALL).double()
    sbp_torch.import_weights(net, weights)
    logits = net(torch.tensor(images)).detach().numpy()
    expected, running = numpy_network(images, weights, SMALL)
    np.testing.assert_allclose(logits, expected, rtol=1e-10)
    assert np.ptp(expected, 0).max() > 1e-3
    after = sbp_torch.export_weights(net)
    for name, array in running.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        SMALL.replace(stem="imagenet", neuron=LIFSpec.parametric()),
        ResNetSpec(depths=(2, 1, 1), widths=(4, 4, 8), neuron=LIFSpec(output_delay=1)),
    ],
    ids=["small", "imagenet-plif", "three"],
)
def test_names_and_shapes_are_the_specs(spec):
    found = sbp_torch.export_weights(sbp_torch.ResNet(spec))
    assert {name: array.shape for name, array in found.items()} == spec.parameter_shapes()
    assert list(found) == list(spec.parameter_shapes())


def test_resnet18_and_34_have_as_many_layers_as_their_names():
    for make, layers in ((sbp_torch.resnet18, 18), (sbp_torch.resnet34, 34)):
        net = make(widths=(2, 2, 2, 2), num_classes=7, time_steps=2)
        main = [
            m for n, m in net.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear) and "down" not in n
        ]
        assert len(main) == net.spec.layers == layers
        assert net(torch.rand(2, 3, 8, 8)).shape == (2, 7)
    assert sbp_torch.resnet34(widths=(2, 2, 2, 2)).spec == resnet34_spec(widths=(2, 2, 2, 2))


def test_stages_carry_time_and_halve_the_map():
    net, shapes = sbp_torch.ResNet(SMALL.replace(stem="imagenet")), {}
    for name in ("stem", "layer1", "layer2"):
        net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: shapes.update({name: tuple(o.shape)}))
    net(torch.rand(2, 2, 16, 16))
    assert shapes == {"stem": (3, 2, 3, 4, 4), "layer1": (3, 2, 3, 4, 4), "layer2": (3, 2, 4, 2, 2)}


def test_repeated_frames_equal_a_still_image():
    # the statistics of T equal frames are those of one
    torch.manual_seed(SEED)
    net = sbp_torch.ResNet(SMALL).double()
    images = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    frames = images.expand(SMALL.time_steps, -1, -1, -1, -1)
    torch.testing.assert_close(net(frames, time_axis=0), net(images), rtol=1e-12, atol=1e-12)
    assert net(images.expand(5, -1, -1, -1, -1), time_axis=0).shape == (3, 5)


def test_a_fresh_network_is_initialised_as_the_reference_says():
    torch.manual_seed(SEED)
    net = sbp_torch.ResNet(ResNetSpec(depths=(1, 1), widths=(32, 64)))
    weights = sbp_torch.export_weights(net)
    kernel = weights["layer2.0.conv1.weight"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    bound = 1 / np.sqrt(64)
    for name in ("head.weight", "head.bias"):
        assert 0.8 * bound < np.abs(weights[name]).max() <= bound
    assert np.all(weights["stem.bn.weight"] == 1)
    assert not weights["stem.bn.bias"].any()


def test_the_whole_network_compiles_as_one_graph_and_runs_under_autocast():
    torch.compiler.reset()
    net = sbp_torch.ResNet(SMALL).eval()
    images = torch.rand(2, 2, 8, 8)
    compiled = torch.compile(net, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(images), net(images))
    with torch.autocast("cpu", torch.bfloat16):
        assert net(images).dtype == torch.bfloat16


def test_weights_survive_a_round_trip_and_are_copies():
    net, twin = sbp_torch.ResNet(SMALL), sbp_torch.ResNet(SMALL)
    weights = sbp_torch.export_weights(net)
    sbp_torch.import_weights(twin, weights)
    images = torch.rand(2, 2, 8, 8)
    assert torch.equal(net.eval()(images), twin.eval()(images))
    weights["head.bias"][:] = 7.0
    assert not (net.head.bias == 7.0).any()


def test_a_shortcuts_weights_have_the_references_names():
    model = sbp_torch.Shortcut(sbp_torch.ResNet(SMALL), ["layer1", "stem"], 5)
    weights = initial_weights(SMALL, SEED, ("layer1", "stem"))
    sbp_torch.import_weights(model, weights)
    found = sbp_torch.export_weights(model)
    assert set(found) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert set(model.state_dict()) - set(weights) == {
        "coefficient",
        *(f"main.{name}" for name in model.main.state_dict() if name.endswith("num_batches_tracked")),
    }


def test_bfloat16_weights_come_as_float32():
    weights = sbp_torch.export_weights(sbp_torch.ResNet(SMALL).bfloat16())
    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w.pop("head.bias"), ValueError, "missing: 'head.bias'"),
        (lambda w: w.update(extra=np.zeros(1)), ValueError, "unknown: 'extra'"),
        (
            lambda w: w.update({"head.bias": np.zeros(4)}),
            ValueError,
            r"'head.bias'\] must have shape \(5,\), got \(4,\)",
        ),
        (lambda w: w.update({"head.bias": np.array(["a"] * 5)}), TypeError, "floating-point numbers"),
        (lambda w: w.update({"head.bias": np.zeros(5, complex)}), TypeError, "floating-point numbers"),
        (lambda w: w.update({"head.bias": np.zeros(5, int)}), TypeError, "floating-point numbers"),
        (lambda w: w.update({"head.bias": np.zeros(5, bool)}), TypeError, "floating-point numbers"),
    ],
)
def test_bad_weights_are_refused_before_anything_is_written(change, error, message):
    net = sbp_torch.ResNet(SMALL)
    before = sbp_torch.export_weights(net)
    weights = {name: array + 1 for name, array in before.items()}
    change(weights)
    with pytest.raises(error, match=message):
        sbp_torch.import_weights(net, weights)
    for name, array in sbp_torch.export_weights(net).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(2, 8, 8), ValueError, "images must have 4 axes"),
        (torch.rand(2, 3, 8, 8), ValueError, "images must have 2 channels, got 3"),
        (torch.rand(0, 2, 2, 8, 8), ValueError, "with time_steps=3 steps"),
        (torch.ones(2, 2, 8, 8, dtype=torch.uint8), TypeError, "images must hold floating-point"),
    ],
)
def test_bad_images_say_what_is_wrong(images, error, message):
    with pytest.raises(error, match=message):
        sbp_torch.ResNet(SMALL)(images)


def test_frames_of_no_step_are_refused():
    with pytest.raises(ValueError, match="at least one time step"):
        sbp_torch.ResNet(SMALL)(torch.rand(0, 2, 2, 8, 8), time_axis=0)


def test_a_network_needs_a_spec():
    with pytest.raises(TypeError, match="spec must be a NetworkSpec"):
        sbp_torch.ResNet((2, 2))
