"""A start near the identity, and calibrated on a batch: against the neuron's equations and the oracle's own passes."""

import numpy as np
import pytest

from sbp_core import CustomSpec, LIFSpec, ResNetSpec, signal
from sbp_core.presets import spikingjelly_lif
from sbp_core.reference import neuron
from sbp_core.reference.networks import initial_weights
from sbp_core.reference.signal import observer, scaled_runner
from sbp_core.signal.feeds import structure_of
from sbp_core.signal.identity import passing
from sbp_core.specs.layers import Flatten, Linear, Neuron, Relu, Repeat, TimeMean
from sbp_core.specs.networks import NARROW, ZOO, network_spec
from sbp_core.specs.structure import Residual, sequence
from tests import starts

NEURONS = [
    LIFSpec(),
    LIFSpec(threshold=3.0, decay=0.2, surrogate="triangle"),
    LIFSpec.parametric(decay=0.25, surrogate="arctan"),
    LIFSpec(rest=-0.3, reset_value=-0.3, surrogate="fast_sigmoid"),
    spikingjelly_lif(),
]


@pytest.mark.parametrize("spec", NEURONS)
def test_a_lone_spike_and_its_gradient_pass(spec):
    made = passing(spec)
    spikes = np.random.default_rng(0).integers(0, 2, (1, 1, 40)).astype(float)
    nothing = neuron.initial_state(made.replace(rest=0.0), spikes[0])
    found = neuron.adjoint(made, spikes, None, np.ones_like(spikes), nothing)
    np.testing.assert_array_equal(found.output, spikes)
    gain = 1.0 - spec.decay if spec.input_gain == "complement" else spec.input_gain
    assert (found.grad_input >= 0.25 * made.surrogate.peak * gain).all()
    assert passing(made) == made


def test_readouts_and_neurons_deep_in_layers_of_ones_own():
    readout = LIFSpec.leaky_integrator()
    first = sequence(fc=Linear(features=6), repeat=Repeat(time_steps=2), neuron=Neuron(spec=LIFSpec(threshold=2.0)))
    inner = sequence(neuron=Neuron(spec=LIFSpec(threshold=2.0)), fc=Linear(features=6))
    block = Residual(body=inner, after=sequence(last=Neuron(spec=LIFSpec(threshold=3.0))))
    last = {"head": Linear(features=3), "out": Neuron(spec=readout), "mean": TimeMean()}
    net = CustomSpec(layers=sequence(flat=Flatten(), first=first, block=block, **last), size=(2, 2), num_classes=3)
    assert dict(signal.at_identity(net).neurons()) == {
        "first.neuron": passing(LIFSpec()),
        "block.neuron": passing(LIFSpec()),
        "block.last": passing(LIFSpec()),
        "out": readout,
    }
    assert dict(net.neurons())["block.neuron"].threshold == 2.0
    weights = initial_weights(net, 0)
    small = signal.identity_weights(net, weights, residual=0.1)
    for part in ("weight", "bias"):
        np.testing.assert_allclose(small[f"block.fc.{part}"], 0.1 * weights[f"block.fc.{part}"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "lone"),
    [
        ("resnet18", ["layer1.0.neuron2", "layer1.1.neuron2"]),
        ("sew_resnet18", ["layer1.0.neuron2", "layer2.0.neuron2"]),
        ("spikformer_cifar", ["patch_embed.position.neuron", "block1.attn.proj.neuron", "block1.mlp.fc2.neuron"]),
        ("ms_resnet18", []),
        ("vgg11", []),
    ],
)
def test_neurons_change_where_one_gets_a_lone_spike_or_a_small_path(name, lone):
    spec = network_spec(name, **NARROW[name])
    found = [path for path in structure_of(spec).lone if not path.startswith("block2")]
    assert found == lone
    assert (signal.at_identity(spec) is spec) == (not lone)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_scaling_the_weights_in_front_of_a_neuron_scales_its_input(name):
    spec = network_spec(name, **NARROW.get(name, {}))
    size = tuple(extent or 16 for extent in spec.image_size)
    still = spec.repeats
    shape = (2, spec.in_channels, *size) if still else (spec.time_steps, 2, spec.in_channels, *size)
    images = np.random.default_rng(0).normal(size=shape)
    weights = {key: value.astype(np.float64) for key, value in initial_weights(spec, 0).items()}

    def inputs(given):
        seen = {}
        scaled_runner(spec, images)(given, lambda path, x: seen.setdefault(path, x) is None or 1.0)
        return seen

    before = inputs(weights)
    feeds = structure_of(spec).feeds
    assert [feed.neuron for feed in feeds] == list(before)
    # the last layer of neurons with such weights, and the first one
    some = [feed for feed in feeds if feed.layers]
    for feed in (some[0], some[-1]):
        names = {f"{path}.{part}" for path in feed.layers for part in ("weight", "bias")}
        after = inputs({key: value * (3.0 if key in names else 1.0) for key, value in weights.items()})
        np.testing.assert_allclose(after[feed.neuron], 3.0 * before[feed.neuron], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("resnet20", ["layer1.0.bn2.bn", "layer2.0.bn2.bn"]),
        ("sew_resnet18", ["layer1.0.bn2", "layer2.0.bn2"]),
        ("ms_resnet18", ["layer1.0.bn2", "layer2.0.bn2"]),
    ],
)
def test_residual_paths_start_small(name, ends):
    spec = network_spec(name, **NARROW[name])
    before = initial_weights(spec, 0)
    after = signal.identity_weights(spec, before, residual=0.05)
    assert list(structure_of(spec).ends) == ends
    for key, value in after.items():
        wanted = np.full_like(value, 0.05) if key.removesuffix(".weight") in ends else before[key]
        np.testing.assert_array_equal(value, wanted)
    # what starts smaller stays
    smaller = signal.identity_weights(spec, after, residual=0.1)
    assert all(np.array_equal(smaller[key], value) for key, value in after.items())


def test_plain_layers_start_near_the_identity():
    spec = network_spec("vgg13", stages=((4, 4), (8, 3)), hidden=(3, 3))
    before = initial_weights(spec, 0)
    after = signal.identity_weights(spec, before, mix=0.0)
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    # the first sees the image; behind the mean over space there are no spikes to pass on
    assert changed == ["stage1.conv2.weight", "stage2.conv1.weight", "stage2.conv2.weight", "hidden2.fc.weight"]
    x = np.random.default_rng(0).normal(size=(1, 4))
    wide = x @ after["stage2.conv1.weight"][:, :, 1, 1].T
    np.testing.assert_array_equal(wide, np.concatenate([x, x], 1))
    assert np.count_nonzero(after["stage2.conv2.weight"]) == 8
    np.testing.assert_array_equal(after["hidden2.fc.weight"], np.eye(3))
    assert all(
        np.array_equal(before[key], value) for key, value in signal.identity_weights(spec, before, mix=None).items()
    )
    mixed = signal.identity_weights(spec, before, mix=0.3)["stage1.conv2.weight"]
    np.testing.assert_allclose(mixed - after["stage1.conv2.weight"], 0.3 * before["stage1.conv2.weight"], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", starts.SPECS)
def test_layers_fire_as_the_table_says(name, dtype):
    spec, weights, found = starts.SPECS[name], starts.weights(name, dtype), starts.oracle(name, dtype)
    start = signal.identity_weights(spec, weights)
    for layer in found.layers:
        for key in (f"{path}.{part}" for path in layer.layers for part in ("weight", "bias")):
            by = np.asarray(layer.factor, dtype)
            np.testing.assert_array_equal(found.after.get(key, weights[key]), start[key] * by)
    pairs = observer(spec, {**weights, **found.after})(starts.images(), np.arange(16) % 4)
    rates = {firing.path: firing.spikes.mean() for firing in pairs.neurons}
    assert {layer.neuron: layer.after for layer in found.layers} == pytest.approx(rates)
    for layer in found.layers:
        if layer.layers:
            assert 0.1 <= layer.after <= 0.5
        assert (layer.factor == 1.0) == (layer.before == layer.after)
    assert sum(layer.factor != 1.0 for layer in found.layers) >= 2
    assert set(found.before) == set(found.after) == {key for key in weights if key in found.after}
    assert all(found.layers[0].neuron in line for line in str(found).splitlines()[1:2])


def test_what_two_layers_of_neurons_share_is_scaled_for_the_first_alone():
    # the membrane path runs from the stem through all blocks
    spec = network_spec("ms_resnet18", depths=(2,), widths=(4,), stem="cifar", time_steps=2, first_stage_stride=1)
    weights = initial_weights(spec, 0)
    weights["stem.bn.weight"] *= np.float32(0.1)
    images = np.random.default_rng(0).normal(size=(8, 3, 8, 8))
    found = {layer.neuron: layer for layer in signal.calibrate(spec, weights, scaled_runner(spec, images)).layers}
    assert found["layer1.0.neuron1"].layers == ("stem.bn",)
    assert found["layer1.0.neuron1"].factor > 1.0
    assert found["layer1.1.neuron1"].layers == found["last.neuron"].layers == ()


@pytest.mark.parametrize("name", ["sew_resnet18", "spikformer_cifar", "qkformer_cifar"])
def test_a_residual_path_that_ends_in_spikes_hardly_fires_and_all_else_that_weights_set_is_in_range(name):
    spec = signal.at_identity(network_spec(name, **NARROW[name]))
    size = (16, 16) if "former" in name else (8, 8)
    run = scaled_runner(spec, np.random.default_rng(0).normal(size=(8, 3, *size)))
    found = signal.calibrate(spec, initial_weights(spec, 0), run).layers
    last = structure_of(spec).lone
    for layer in found:
        if layer.neuron in last:
            assert layer.layers
            assert layer.after == pytest.approx(0.1, abs=0.02)
        elif layer.layers:
            assert 0.1 <= layer.after <= 0.5
    # products of spikes, sums of them and what stands behind an identity path are no weights' multiple
    free = {layer.neuron.rpartition(".")[2] for layer in found if not layer.layers and "layer" not in layer.neuron}
    assert free <= {"neuron", "gate"}
    as_they_are = {
        layer.neuron: layer for layer in signal.calibrate(spec, initial_weights(spec, 0), run, residual=None).layers
    }
    assert as_they_are[last[0]].after > 0.15


def test_a_residual_path_without_weights_has_no_end():
    block = Residual(body=sequence(relu=Relu()))
    layers = {"repeat": Repeat(time_steps=2), "fc": Linear(features=4), "block": block, "neuron": Neuron()}
    net = sequence({"flat": Flatten()} | layers, head=Linear(features=3), mean=TimeMean())
    assert structure_of(CustomSpec(layers=net, size=(2, 2), num_classes=3)).ends == ()


def test_a_layer_that_fires_too_much_is_scaled_down_and_one_that_cannot_fire_is_left():
    spec = ResNetSpec(depths=(1,), widths=(4,), time_steps=2)
    # nothing that is multiplied makes a negative input fire
    weights = initial_weights(spec, 0) | {
        "stem.bn.bias": np.full(4, 2.0, np.float32),
        "layer1.0.bn1.bias": np.full(4, -9.0, np.float32),
    }
    images = np.random.default_rng(0).normal(size=(8, 3, 8, 8))
    stem, silent, _ = signal.calibrate(spec, weights, scaled_runner(spec, images)).layers
    assert stem.before > 0.5 >= stem.after > 0.4
    assert (silent.factor, silent.before, silent.after) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": (0.5, 0.1)}, "rates must be the least and the most"),
        ({"rates": (0.1, 1.5)}, r"rates\[1\] must lie in"),
        ({"residual": -1.0}, "residual must lie in"),
        ({"mix": float("nan")}, "mix must"),
    ],
)
def test_mistakes_are_named(options, message):
    spec = starts.SPECS["residual"]
    with pytest.raises(ValueError, match=message):
        signal.calibrate(spec, starts.WEIGHTS["residual"], scaled_runner(spec, starts.images()), **options)
