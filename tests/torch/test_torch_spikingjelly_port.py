"""A network of SpikingJelly's becomes one of ours that computes the same: compared with the package itself."""

import ast
import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sbp_torch
from sbp_core import presets
from sbp_core.specs.networks import network_spec
from sbp_torch.spikingjelly import neuron_spec

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from zoo_spikingjelly import NETS, compare, lif, ms, narrow_vgg, sew, spiking, theirs

node = pytest.importorskip("spikingjelly.activation_based.neuron", reason="SpikingJelly is not installed")

LIF = presets.spikingjelly_lif(tau=2.0, detach_reset=True)


@pytest.mark.parametrize("name", NETS)
def test_spikes_logits_gradients_and_statistics_are_theirs(name):
    found = compare(NETS[name])
    assert found.parameters[0] == found.parameters[1]
    assert found.silent == 0
    assert found.neurons[0] == found.neurons[1]
    assert max(found.evaluation, found.training, found.still) <= 1e-10
    assert found.gradients <= 1e-9
    assert found.statistics <= 1e-10


def sizes(name, make, **fields):
    return pytest.param(make, network_spec(name, **fields), id=name)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        sizes(
            "resnet18",
            lambda: theirs("model.spiking_resnet").spiking_resnet18(**lif()),
            stem="imagenet",
            neuron=LIF,
            num_classes=1000,
        ),
        sizes(
            "sew_resnet18",
            lambda: theirs("model.sew_resnet").sew_resnet18(cnf="AND", **lif()),
            join="and",
            neuron=LIF,
            num_classes=1000,
        ),
        sizes("ms_resnet18", lambda: theirs("model.ms_resnet").ms_resnet18(), num_classes=1000, time_steps=6),
        sizes("max_resnet18", lambda: theirs("model.ms_resnet").max_resnet18(), stem_channels=64),
        sizes("spikformer_cifar", lambda: theirs("model.spikformer").spikformer_cifar10()),
        sizes("qkformer_imagenet", lambda: theirs("model.qkformer").qkformer_10_384(detach_reset=True), bias=True),
        sizes(
            "dvs_gesture",
            lambda: theirs("model.parametric_lif_net").DVSGestureNet(spiking_neuron=node.ParametricLIFNode),
            time_steps=4,
        ),
    ],
)
def test_their_published_sizes_are_the_zoos(make, wanted):
    assert sbp_torch.from_spikingjelly(make()).spec == wanted


SURROGATES = {
    "Sigmoid": {"alpha": 3.0},
    "ATan": {"alpha": 3.0},
    "SoftSign": {"alpha": 3.0},
    "SuperSpike": {"alpha": 3.0},
    "PiecewiseQuadratic": {"alpha": 0.7},
    "Rect": {"alpha": 0.7},
    "Erf": {"alpha": 3.0},
    "PiecewiseExp": {"alpha": 3.0},
    "PiecewiseLeakyReLU": {"w": 0.7, "c": 0.02},
}


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    "make",
    [
        lambda **given: node.IFNode(v_threshold=0.7, v_reset=None, **given),
        lambda **given: node.LIFNode(tau=4.0, decay_input=False, v_reset=-0.1, detach_reset=True, **given),
        lambda **given: node.ParametricLIFNode(init_tau=3.0, **given),
        lambda **given: node.ComplementaryLIFNode(tau=3.0, v_threshold=0.7, **given),
    ],
    ids=["IF", "LIF", "PLIF", "CLIF"],
)
def test_a_neurons_spec_spikes_and_learns_as_it_does(make, surrogate):
    function = getattr(theirs("surrogate"), surrogate)(**SURROGATES[surrogate])
    peer = make(surrogate_function=function, step_mode="m").double()
    x = torch.from_numpy(np.random.default_rng(5).normal(0.6, 1.0, (8, 40)))
    ends = []
    for run in (peer, lambda value: sbp_torch.lif(value, neuron_spec(peer).replace(learn_decay=False))[0]):
        given = x.clone().requires_grad_()
        spikes = run(given)
        (spikes * torch.linspace(-1, 1, 40, dtype=x.dtype)).sum().backward()
        ends.append((spikes.detach(), given.grad))
    assert 0 < ends[0][0].mean() < 1
    torch.testing.assert_close(ends[1][0], ends[0][0], rtol=0, atol=0)
    # PLIF's first w is kept in float32
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=1e-6, atol=1e-9)


def test_the_network_is_left_alone_and_the_weights_are_copies():
    net = spiking((1, 1, 1, 1), lif())
    before = copy.deepcopy(net.state_dict())
    weights = sbp_torch.from_spikingjelly(net).weights
    for value in weights.values():
        value += 1.0
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_in_bfloat16_become_float32():
    net = spiking((1, 1, 1, 1), lif()).bfloat16()
    assert sbp_torch.from_spikingjelly(net).weights["head.weight"].dtype == np.float32


def test_a_stem_for_small_images_is_known():
    net, layer = spiking((1, 1, 1, 1), lif()), theirs("layer")
    net.conv1, net.maxpool = layer.Conv2d(3, 8, 3, 1, 1, bias=False), nn.Identity()
    assert sbp_torch.from_spikingjelly(net).spec.stem == "cifar"


def test_steps_and_size_are_what_is_given():
    spec = sbp_torch.from_spikingjelly(narrow_vgg(2), time_steps=7, size=(64, 95)).spec
    assert (spec.time_steps, spec.size) == (7, (64, 95))
    assert sbp_torch.from_spikingjelly(ms()).spec.time_steps == 3


def test_spikingjelly_need_not_be_installed():
    for file in Path(sbp_torch.spikingjelly.__file__).parent.glob("*.py"):
        for found in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in found.names] if isinstance(found, ast.Import) else []
            names += [found.module] if isinstance(found, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "spikingjelly" for name in names), file


def changed(make, path, **attributes):
    def build():
        net = make()
        for name, value in attributes.items():
            setattr(net.get_submodule(path), name, value() if callable(value) else value)
        return net

    return build


def small():
    return spiking((1, 1, 1, 1), lif())


def own_forward():
    base = theirs("model.spiking_resnet").SpikingResNet

    class Mine(base):
        def forward(self, x):
            return 2 * super().forward(x)

    net = small()
    net.__class__ = Mine
    return net


def bottleneck():
    model = theirs("model.spiking_resnet")
    return model.SpikingResNet(model.Bottleneck, [1, 1, 1, 1], **lif())


def without(path):
    def build():
        net = small()
        delattr(net, path)
        return net

    return build


def vgg_without_norm():
    net = narrow_vgg(1)
    net.features = type(net).make_layers([8, "M"], neuron=node.LIFNode)
    return net


def dropout_too_few():
    net = narrow_vgg(1)
    del net.classifier[5]
    return net


def tdbn():
    layer = theirs("layer")
    return layer.ThresholdDependentBatchNorm2d(alpha=1.0, v_th=1.0, num_features=8)


def their_spikformer(**options):
    return theirs("model.spikformer").Spikformer(embed_dims=32, num_heads=4, depths=1, patch_size=4, **options)


def channel_attention():
    return theirs("model.qkformer").QKFormer(embed_dims=32, num_heads=(1, 2, 4), qka_type="channel", detach_reset=True)


def mixed_reset():
    return theirs("model.qkformer").QKFormer(embed_dims=32, num_heads=(1, 2, 4))


def grouped():
    return theirs("layer").Conv2d(8, 8, 3, 1, 1, groups=2, bias=False)


REFUSED = {
    "another network": (lambda: nn.Linear(2, 2), "net must be one of SpikingJelly's SpikingResNet.*; got Linear"),
    "a forward of its own": (own_forward, "net is a SpikingResNet with a forward of its own, Mine's"),
    "bottleneck": (bottleneck, "layer1.0 is a Bottleneck, and only blocks of two convolutions"),
    "groups": (changed(small, "layer1.0", conv2=grouped), "layer1.0.conv2: groups must be 1, got 2"),
    "dilation": (changed(small, "layer1.0.conv2", dilation=(2, 2)), r"layer1.0.conv2: dilation must be \(1, 1\)"),
    "stride": (changed(small, "layer2.0.conv1", stride=(1, 1)), r"layer2.0.conv1: stride must be \(2, 2\)"),
    "another neuron": (
        changed(small, "layer1.0", sn1=lambda: node.QIFNode()),
        "layer1.0.sn1 must be .*, got QIFNode",
    ),
    "another surrogate": (
        changed(small, "sn1", surrogate_function=lambda: theirs("surrogate").S2NN()),
        "sn1: the surrogate must be one of Sigmoid.*, got S2NN",
    ),
    "a smooth surrogate": (
        changed(small, "sn1", surrogate_function=lambda: theirs("surrogate").Sigmoid(spiking=False)),
        "sn1: the surrogate must have spiking=True",
    ),
    "another tau": (
        changed(small, "layer2.0.sn2", tau=4.0),
        "layer2.0.sn2 must be as the network's other neurons are, it has decay=0.75 instead of 0.5",
    ),
    "another norm": (changed(small, "", bn1=tdbn), "bn1 must be BatchNorm1d or BatchNorm2d, got ThresholdDependent"),
    "another epsilon": (changed(small, "layer1.0.bn2", eps=1e-3), "layer1.0.bn2: eps must be 1e-05, got 0.001"),
    "VGG's epsilon": (changed(lambda: narrow_vgg(1), "features.1", eps=1e-3), "features.1: eps must be 1e-05"),
    "a module too few": (without("fc"), "net has no module 'fc'"),
    "a module too many": (changed(small, "", aux=lambda: nn.Linear(2, 2)), "aux is a Linear, which a resnet does not"),
    "another width": (
        changed(small, "layer1.0", conv2=lambda: theirs("layer").Conv2d(8, 12, 3, 1, 1, bias=False)),
        r"layer1.0.conv2.weight must have shape \(8, 8, 3, 3\), got \(12, 8, 3, 3\)",
    ),
    "a dropout too few": (dropout_too_few, "net lacks a module for 'hidden2.drop' of a vgg"),
    "joins that differ": (
        changed(lambda: sew("ADD"), "layer3.1", cnf="AND"),
        "layer3.1: cnf must be 'ADD' as that of layer1.0, got 'AND'",
    ),
    "a pool in the stem": (lambda: ms(stem_pool=True), "stem.2 is a MaxPool2d, which a ms_resnet does not"),
    "VGG without batch norm": (
        vgg_without_norm,
        "features must have .* batch norm.* got Conv2d, LIFNode",
    ),
    "channel attention": (channel_attention, "stage1.0.attn: qka_type must be 'token', got 'channel'"),
    "two resets": (mixed_reset, "stage1.0.attn.* it has detach_reset=True instead of False"),
    "a threshold that is not halved": (
        lambda: their_spikformer(**lif()),
        "blocks.0.attn.attn_lif .* it has threshold=1.0 instead of 0.5",
    ),
    "an attention that learns its decay": (
        lambda: their_spikformer(spiking_neuron=node.ParametricLIFNode),
        "blocks.0.attn.qkv_lif learns one decay for 3 paths",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_ours_has_not_is_an_error_that_names_it(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        sbp_torch.from_spikingjelly(make())


def test_other_arguments_are_errors_that_name_them():
    with pytest.raises(TypeError, match="net must be a torch module, got str"):
        sbp_torch.from_spikingjelly("net")
    with pytest.raises(ValueError, match=r"avgpool: output_size must be \(1, 1\), got \(2, 2\)"):
        sbp_torch.from_spikingjelly(narrow_vgg(2), size=(32, 32))
    with pytest.raises(ValueError, match="time_steps must be at least 1, got 0"):
        sbp_torch.from_spikingjelly(small(), time_steps=0)
