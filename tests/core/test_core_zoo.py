"""The zoo: sizes of the sources, sound specs, and what follows from the layers alone."""

import json

import numpy as np
import pytest

from sbp_core import CustomSpec, LIFSpec, LossSpec, NetworkSpec, ResNetSpec, network_spec
from sbp_core.backend import ShortcutNetwork
from sbp_core.reference.network import ReferenceNetwork
from sbp_core.reference.networks import initial_weights
from sbp_core.specs import layers as kinds
from sbp_core.specs.networks import NARROW, ZOO
from sbp_core.specs.structure import Residual, numbered, sequence

# millions of parameters as the sources have them: torchvision's ResNets and VGGs (batch norm, one linear layer),
# Spikformer's Table 1 and 2, QKFormer's Table 1, SpikingJelly 2.0.0's nets counted
MILLIONS = {
    ("resnet18", 1000, "imagenet"): 11.689512,
    ("resnet34", 1000, "imagenet"): 21.797672,
    ("sew_resnet18", 1000, None): 11.689512,
    ("sew_resnet34", 1000, None): 21.797672,
    ("spikformer_cifar", 10, None): 9.32,
    ("spikformer_imagenet", 1000, None): 29.68,
    ("qkformer_imagenet", 1000, None): 16.47,
    ("resnet20", 10, None): 0.27,
}


@pytest.mark.parametrize(("name", "classes", "stem"), MILLIONS)
def test_parameters_are_as_many_as_in_the_source(name, classes, stem):
    fields = {"num_classes": classes} | ({"stem": stem} if stem else {})
    stated = MILLIONS[name, classes, stem]
    found = network_spec(name, **fields).parameter_count / 1e6
    # to the digits that the source prints
    assert found == pytest.approx(stated, abs=1e-9 if len(str(stated)) > 7 else 0.02)


@pytest.mark.parametrize("name", ZOO)
def test_a_spec_survives_json_and_says_its_shapes(name):
    spec = network_spec(name, num_classes=7)
    again = NetworkSpec.from_json(json.dumps(json.loads(spec.to_json())))
    assert again == spec
    assert spec.outline()[-1].output.channels == 7
    shapes = spec.parameter_shapes()
    assert len(shapes) == len(set(shapes))
    assert set(spec.default_taps) <= set(spec.tap_channels)
    assert spec.default_taps
    assert spec.parameter_count == sum(np.prod(s, dtype=int) for n, s in shapes.items() if ".running_" not in n)


@pytest.mark.parametrize("name", ZOO)
def test_a_narrow_one_runs_and_every_weight_gets_a_gradient(name):
    spec = network_spec(name, num_classes=4, in_channels=2, time_steps=2, **NARROW[name])
    network = ShortcutNetwork(spec, spec.default_taps, LossSpec())
    weights = {path: np.float64(value) for path, value in initial_weights(spec, 0, network.taps).items()}
    weights = {
        path: value + 0.3 if value.ndim == 1 and ".running_" not in path else value for path, value in weights.items()
    }
    size = [16 if extent is None else extent for extent in spec.image_size]
    images = np.random.default_rng(0).normal(size=(2, 2, 2, *size))
    smooth = ReferenceNetwork(network, weights, smooth=True)
    logits = smooth.forward(images, training=True)
    smooth.backward(type(logits)(np.ones_like(logits.main), tuple(map(np.ones_like, logits.branches))))
    assert set(smooth.gradients) == {path for path in weights if ".running_" not in path}
    assert set(smooth.spikes) == set(spec.tap_channels)


def test_operations_are_counted_by_hand():
    layers = sequence(
        stem=sequence(conv=kinds.Conv(channels=4, kernel=3), repeat=kinds.Repeat(time_steps=5), neuron=kinds.Neuron()),
        deep=sequence(conv=kinds.Conv(channels=6, kernel=3, stride=2, groups=2), neuron=kinds.Neuron()),
        pool=kinds.GlobalPool(),
        head=kinds.Linear(features=10),
        mean=kinds.TimeMean(),
    )
    spec = CustomSpec(layers=layers, in_channels=3, time_steps=5)
    # the stem is encoded once, the others run at each of five steps
    assert spec.operations((8, 8)) == 64 * 4 * 27 + 5 * (16 * 6 * 2 * 9 + 60)
    with pytest.raises(ValueError, match="size must be given: the custom takes images of any"):
        spec.operations()


def test_a_stem_runs_once_and_everything_after_it_at_each_step():
    outline = {placed.path: placed.output for placed in network_spec("resnet18").outline((32, 32))}
    assert not outline["stem.conv"].timed
    assert outline["stem.neuron"].timed
    assert outline["layer4.1.neuron2"] == kinds.Shape(512, (4, 4))
    assert not outline["mean"].timed


def test_dropout_stands_before_the_head_where_it_is_asked_for():
    def dropped(**fields):
        outline = network_spec("dvs_gesture", **fields).outline()
        return [placed.path for placed in outline if isinstance(placed.layer, kinds.Dropout)]

    # as in SpikingJelly's DVSGestureNet
    assert dropped() == ["drop", "hidden1.drop"]
    assert dropped(drop_features=False) == ["hidden1.drop"]
    assert dropped(dropout=0.0) == []


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: network_spec("resnt18"), ValueError, "name must be one of .*; did you mean 'resnet18'"),
        (
            lambda: network_spec("vgg11", size=(16, 16)),
            ValueError,
            r"layer 'stage5.pool': a window of 2 .*\(512, 1, 1\)",
        ),
        (lambda: network_spec("vgg11", stages="64"), TypeError, "stages must be tuples of channels"),
        (lambda: network_spec("vgg11", stages=((64,), ())), ValueError, r"stages\[1\] must not be empty"),
        (lambda: network_spec("vgg11", size=(32,)), ValueError, r"size must be \(height, width\)"),
        (lambda: network_spec("vgg11", dropout=1.0), ValueError, "rate must be less than 1"),
        (lambda: network_spec("vgg11", drop_features=1), TypeError, "drop_features must be"),
        (
            lambda: network_spec("spikformer_cifar", heads=7),
            ValueError,
            "layer 'block1.attn.qkv.attention': channels must",
        ),
        (lambda: network_spec("spikformer_cifar", patch=8), ValueError, "patch must be 4 or 16, got 8"),
        (lambda: network_spec("spikformer_cifar", dim=100), ValueError, "dim must be a multiple of 8"),
        (lambda: network_spec("qkformer_cifar", depths=(1, 1)), ValueError, "depths must have three numbers"),
        (lambda: network_spec("sew_resnet18", join="or"), ValueError, "join must be one of 'add', 'and', 'iand'"),
        (lambda: network_spec("ms_resnet18", downsample="avg"), ValueError, "downsample must be one of"),
        (lambda: network_spec("mlp", size=None), TypeError, r"size must be \(height, width\), got None"),
        (lambda: ResNetSpec(depths=(1,), widths=(4,), norm="layer"), ValueError, "norm must be one of 'batch', 'tdbn'"),
        (lambda: network_spec("resnet18", neuron="lif"), TypeError, "neuron must be a LIFSpec, got str"),
        (lambda: CustomSpec(layers=kinds.Flatten()), TypeError, "layers must be a Sequence, got Flatten"),
        (lambda: CustomSpec(layers=sequence()), ValueError, "a custom must have layers, got none"),
        (
            lambda: CustomSpec(layers=sequence(flat=kinds.GlobalPool(), head=kinds.Linear(features=3)), num_classes=4),
            ValueError,
            r"the layers must end in num_classes=4 logits, they end in \(3\)",
        ),
        (lambda: sequence({"a.b": kinds.Flatten()}), ValueError, "layers must have names without a dot, got 'a.b'"),
        (
            lambda: Residual(body=sequence(downsample=kinds.Flatten())),
            ValueError,
            "layers must not repeat a name, got downsample, downsample",
        ),
        (lambda: Residual(body=sequence(), join="xor"), ValueError, "join must be one of 'add', 'and', 'iand'"),
        (lambda: kinds.Conv(channels=3, groups=2), ValueError, "channels must be a multiple of groups=2, got 3"),
        (lambda: kinds.MaxPool(kernel=2, padding=2), ValueError, "padding must be at most half of kernel=2, got 2"),
        (lambda: kinds.Neuron(spec="lif"), TypeError, "neuron must be a LIFSpec, got str"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_paths_of_other_shapes_do_not_join():
    block = Residual(body=sequence(conv=kinds.Conv(channels=6)))
    layers = sequence(blocks=numbered(block), pool=kinds.GlobalPool(), head=kinds.Linear(features=10))
    with pytest.raises(ValueError, match=r"layer 'blocks.0.add': paths must end in one shape, got \(3, any"):
        CustomSpec(layers=layers)


def test_taps_are_the_parts_with_a_neuron():
    spec = network_spec("vgg11", hidden=(16,), size=(32, 32), neuron=LIFSpec())
    assert list(spec.tap_channels) == ["stage1", "stage2", "stage3", "stage4", "stage5", "hidden1"]
    assert network_spec("spikformer_cifar", depth=1).default_taps == ("patch_embed",)


def test_normalisations_start_as_their_sources_say():
    neuron = LIFSpec(threshold=0.5)
    found = {
        norm: network_spec("resnet20", norm=norm, neuron=neuron).parameters() for norm in ("batch", "tdbn", "tebn")
    }
    assert found["batch"]["stem.bn.weight"].initial == 1.0
    # alpha times the threshold
    assert found["tdbn"]["stem.bn.weight"].initial == 0.5
    # and a factor for each step behind a plain batch norm
    assert found["tebn"]["layer1.0.bn1.bn.weight"].initial == 1.0
    assert found["tebn"]["layer1.0.bn1.scale.weight"] == ((4,), 1.0)
    ms = network_spec("ms_resnet18").parameters()
    assert (ms["layer1.0.bn1.weight"].initial, ms["layer1.0.bn2.weight"].initial) == (0.5, 0.0)


def test_a_hidden_layer_of_kaiming_is_2_4_times_as_wide():
    plain, wide = (
        initial_weights(network_spec("mlp", hidden=(400,), hidden_initial=initial), 0)["hidden1.fc.weight"].std()
        for initial in ("uniform", "kaiming")
    )
    assert wide / plain == pytest.approx(np.sqrt(6.0), rel=0.02)


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("resnet18", 8, {"stem": 8, "layer1": 8, "layer2": 16, "layer3": 32, "layer4": 64}),
        ("max_resnet18", 16, {"layer1": 16, "layer2": 32, "layer3": 64, "last": 64}),
        ("vgg11", 4, {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32, "stage5": 32}),
        ("mlp", 5, {"hidden1": 5, "hidden2": 5}),
        ("qkformer_cifar", 8, {"stage1": 16, "stage2": 32, "stage3": 64}),
    ],
)
def test_a_width_scales_all_channels_in_proportion(name, width, expected):
    assert network_spec(name).with_width(width).tap_channels == expected
