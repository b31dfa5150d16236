"""SpikingJelly's networks against what they become here: spikes, logits, gradients and running statistics in float64.

Prints the table of docs/zoo.md. Weights and running statistics are drawn so that nothing is trivial; the inputs are
event frames, whose batch norm counts the same values on both sides.
"""

import argparse
import contextlib
import itertools
import math
import sys
import types
from collections.abc import Callable
from typing import NamedTuple

import torch
from common import table
from torch import nn

import sbp_torch
from sbp_torch.spikingjelly import places

STEPS, SAMPLES, CLASSES = 3, 2, 10


class Case(NamedTuple):
    """A network of SpikingJelly's.

    Attributes:
        make: builds it.
        size: height and width of its images.
        channels: of its images.
        samples: in a batch.
    """

    make: Callable[[], nn.Module]
    size: int
    channels: int = 3
    samples: int = SAMPLES


class Difference(NamedTuple):
    """The largest differences between two networks that should be the same.

    Attributes:
        parameters: of theirs, and of ours.
        neurons: how many there are, in evaluation and in training, and of how many every spike is equal.
        silent: neurons that never fire, which compare nothing.
        evaluation: of the logits, running statistics used.
        training: of the logits, the batch's statistics used.
        still: of the logits of still images, which they repeat before the first layer.
        gradients: of every parameter, over its own largest; in evaluation and in training.
        statistics: of the running statistics after a step of training.
    """

    parameters: tuple[int, int]
    neurons: tuple[int, int]
    silent: int
    evaluation: float
    training: float
    still: float
    gradients: float
    statistics: float


def theirs(name):
    """Import a module of SpikingJelly's models, which ask for torchvision to download weights that we do not want."""
    from importlib import import_module
    from importlib.util import find_spec

    stubs = {}
    if find_spec("torchvision") is None:
        stubs = {part: types.ModuleType(part) for part in ("torchvision", "torchvision._internally_replaced_utils")}
        stubs["torchvision._internally_replaced_utils"].load_state_dict_from_url = None
    sys.modules.update(stubs)
    try:
        return import_module(f"spikingjelly.activation_based.{name}")
    finally:
        for part in stubs:
            del sys.modules[part]


def lif(**options):
    """Return what their constructors take for a LIF neuron."""
    return {"spiking_neuron": theirs("neuron").LIFNode, "tau": 2.0, "detach_reset": True} | options


def soft_if():
    """Return what their constructors take for an IF neuron of soft reset."""
    arctan = theirs("surrogate").ATan(alpha=3.0)
    return {"spiking_neuron": theirs("neuron").IFNode, "v_reset": None, "surrogate_function": arctan}


def plif():
    """Return what their constructors take for a PLIF neuron."""
    return {"spiking_neuron": theirs("neuron").ParametricLIFNode, "init_tau": 3.0, "v_threshold": 0.8}


def resnet(module, name, depths, neuron, **options):
    """Return a residual network of an eighth of the widths that their constructor has in it."""
    model, layer = theirs(f"model.{module}"), theirs("layer")
    net = getattr(model, name).__new__(getattr(model, name))
    nn.Module.__init__(net)
    net._norm_layer, net.inplanes, net.dilation, net.groups, net.base_width = layer.BatchNorm2d, 8, 1, 1, 64
    net.conv1 = layer.Conv2d(3, 8, 7, 2, 3, bias=False)
    net.bn1, net.maxpool = layer.BatchNorm2d(8), layer.MaxPool2d(3, 2, 1)
    net.sn1 = neuron["spiking_neuron"](**{key: value for key, value in neuron.items() if key != "spiking_neuron"})
    for index, (depth, width) in enumerate(zip(depths, (8, 16, 32, 64), strict=True)):
        stride = 2 if index else 1
        stage = net._make_layer(model.BasicBlock, width, depth, stride=stride, **neuron, **options)
        setattr(net, f"layer{index + 1}", stage)
    net.avgpool, net.fc = layer.AdaptiveAvgPool2d((1, 1)), layer.Linear(64, CLASSES)
    return net


def spiking(depths, neuron):
    """Return a spiking ResNet."""
    return resnet("spiking_resnet", "SpikingResNet", depths, neuron)


def sew(join):
    """Return a SEW-ResNet-18."""
    return resnet("sew_resnet", "SEWResNet", (2, 2, 2, 2), lif(), cnf=join)


def narrow_vgg(pooled):
    """Return VGG-11 with 8 channels and 16 hidden units; their constructor's head has 120 million parameters."""
    model, layer = theirs("model.spiking_vgg").SpikingVGG, theirs("layer")
    neuron = theirs("neuron").LIFNode
    net = model.__new__(model)
    nn.Module.__init__(net)
    shape = [8, "M", 8, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M"]
    net.features = model.make_layers(shape, True, neuron=neuron, tau=1.5, decay_input=False)
    net.avgpool = layer.AdaptiveAvgPool2d((pooled, pooled))
    units = [8 * pooled**2, 16, 16]
    hidden = [
        part
        for inputs, outputs in itertools.pairwise(units)
        for part in (layer.Linear(inputs, outputs), neuron(tau=1.5, decay_input=False), layer.Dropout())
    ]
    net.classifier = nn.Sequential(*hidden, layer.Linear(16, CLASSES))
    return net


def ms(**options):
    """Return an MS-ResNet-18 of an eighth of its widths."""
    return theirs("model.ms_resnet").MSResNet(T=STEPS, num_classes=CLASSES, base_channels=8, **options)


def max_resnet():
    """Return a Max-ResNet-18 of an eighth of its widths."""
    return theirs("model.ms_resnet").MaxResNet(
        T=STEPS,
        num_classes=CLASSES,
        layers=(3, 3, 2),
        base_channels=8,
        stage_channels=(16, 32, 64),
        stem_kernel_size=3,
        stem_stride=1,
    )


def spikformer(patch):
    """Return a Spikformer of two blocks of 32 channels."""
    return theirs("model.spikformer").Spikformer(
        T=STEPS, num_classes=CLASSES, patch_size=patch, embed_dims=32, num_heads=4, depths=2, mlp_ratio=2.0
    )


def qkformer():
    """Return a QKFormer of 32 channels; outside its attention their default keeps the gradient of the reset."""
    return theirs("model.qkformer").QKFormer(
        T=STEPS, num_classes=CLASSES, embed_dims=32, num_heads=(1, 2, 4), depths=(1, 2, 2), detach_reset=True
    )


def conv_fc(name, channels=3):
    """Return a network of the PLIF paper."""
    return getattr(theirs("model.parametric_lif_net"), name)(channels=channels, **plif())


NETS = {
    "Spiking ResNet-18": Case(lambda: spiking((2, 2, 2, 2), lif()), 48),
    "Spiking ResNet-34, IF of soft reset": Case(lambda: spiking((3, 4, 6, 3), soft_if()), 48),
    "SEW-ResNet-18, add": Case(lambda: sew("ADD"), 48),
    "SEW-ResNet-18, and": Case(lambda: sew("AND"), 48),
    "SEW-ResNet-18, iand": Case(lambda: sew("IAND"), 48),
    "MS-ResNet-18": Case(ms, 48),
    "MS-ResNet, three stages, stride 1": Case(
        lambda: ms(layers=(1, 2, 1), stem_kernel_size=3, stem_stride=1, stage_channels=(8, 12, 16)), 16
    ),
    "Max-ResNet-18": Case(max_resnet, 16),
    "VGG-11": Case(lambda: narrow_vgg(1), 32),
    "VGG-11, flattened maps": Case(lambda: narrow_vgg(2), 64),
    "Spikformer, patch 4": Case(lambda: spikformer(4), 16),
    "Spikformer, patch 16": Case(lambda: spikformer(16), 64),
    "QKFormer": Case(qkformer, 48),
    "MNIST net": Case(lambda: conv_fc("MNISTNet"), 28, 1),
    "CIFAR10-DVS net": Case(lambda: conv_fc("CIFAR10DVSNet"), 128, 2, samples=1),
    "DVS-Gesture net": Case(lambda: conv_fc("DVSGestureNet"), 128, 2, samples=1),
}

#: At the sizes of the papers, for the printed table alone.
FULL = {
    "Spiking ResNet-18, full width": Case(lambda: theirs("model.spiking_resnet").spiking_resnet18(**lif()), 64),
    "Spiking ResNet-34, full width": Case(lambda: theirs("model.spiking_resnet").spiking_resnet34(**lif()), 64),
    "SEW-ResNet-18, add, full width": Case(lambda: theirs("model.sew_resnet").sew_resnet18(cnf="ADD", **lif()), 64),
    "MS-ResNet-18, full width": Case(lambda: theirs("model.ms_resnet").ms_resnet18(T=STEPS), 64),
    "Max-ResNet-18, full width": Case(lambda: theirs("model.ms_resnet").max_resnet18(T=STEPS), 32),
    "VGG-11, full width": Case(
        lambda: theirs("model.spiking_vgg").spiking_vgg11_bn(init_weights=False, **lif()), 224, samples=1
    ),
    "Spikformer-4-384": Case(lambda: theirs("model.spikformer").spikformer_cifar10(T=STEPS), 32),
    "QKFormer-10-384": Case(lambda: theirs("model.qkformer").qkformer_10_384(T=STEPS, detach_reset=True), 64),
    "DVS-Gesture net, full width": Case(lambda: conv_fc("DVSGestureNet", 128), 128, 2),
}


def built(case):
    """Return the network in float64, in multi-step mode, with weights in which nothing is trivial."""
    with _double():
        net = case.make()
    theirs("functional").set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / module.weight[0].numel()))
            if module.bias is not None:
                nn.init.normal_(module.bias, 0.6, 0.3)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.6)
            nn.init.normal_(module.bias, 0.8, 0.4)
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif type(module).__name__ == "ParametricLIFNode":
            nn.init.normal_(module.w, std=0.5)
    return net


def compare(case, seed=0):
    """Return how far a network and its port are apart."""
    torch.manual_seed(seed)
    net = built(case)
    ported = sbp_torch.from_spikingjelly(net, time_steps=STEPS)
    ours = sbp_torch.network(ported.spec).double()
    sbp_torch.import_weights(ours, ported.weights)
    frames = torch.randn(STEPS, case.samples, case.channels, case.size, case.size, dtype=torch.float64)
    cotangent = torch.randn(case.samples, ported.spec.num_classes, dtype=torch.float64)
    found = {"gradients": 0.0}
    fired = []
    for mode in ("evaluation", "training"):
        there, here = Watched(net), Watched(ours)
        where = {path: place for path, place in places(net).items() if path in dict(ported.spec.neurons())}
        wanted = there.run(frames, cotangent, mode, {place.path for place in where.values()})
        got = here.run(frames, cotangent, mode, where)
        found[mode] = _apart(got, wanted)
        fired.append([_spikes(there.spikes[place.path], place, here.spikes[path]) for path, place in where.items()])
        found["gradients"] = max(found["gradients"], _gradients(net, ours, mode))
    images = frames[0]
    net.eval()
    theirs("functional").reset_net(net)
    with torch.no_grad():
        still = net(images.expand(STEPS, *images.shape))
        found["still"] = _apart(ours.eval()(images), still if still.ndim == 2 else still.mean(0))
    return Difference(
        parameters=(sum(value.numel() for value in net.parameters()), ported.spec.parameter_count),
        neurons=(sum(map(len, fired)), sum(equal for each in fired for equal, _ in each)),
        silent=sum(not some for each in fired for _, some in each),
        statistics=_statistics(net, ours),
        **found,
    )


class Watched:
    """A network whose spikes are kept.

    Args:
        net: theirs or ours.
    """

    def __init__(self, net):
        self.net, self.spikes = net, {}

    def run(self, frames, cotangent, mode, paths):
        """Run it, forward and backward, and return the logits."""
        hooks = [self.net.get_submodule(path).register_forward_hook(self._keeper(path)) for path in paths]
        self.net.train(mode == "training").zero_grad()
        own = isinstance(self.net, sbp_torch.Network)
        if not own:
            theirs("functional").reset_net(self.net)
        # both draw a mask of one step's shape for each dropout
        torch.manual_seed(1)
        logits = self.net(frames, time_axis=0) if own else self.net(frames)
        logits = logits.mean(0) if logits.ndim == 3 else logits
        (logits * cotangent).sum().backward()
        for hook in hooks:
            hook.remove()
        return logits.detach()

    def _keeper(self, path):
        def keep(module, inputs, output):
            self.spikes[path] = output.detach()

        return keep


def _spikes(wanted, place, got):
    part = wanted.chunk(place.parts, 2)[place.part]
    return torch.equal(part.reshape(*part.shape[:2], -1), got.reshape(*got.shape[:2], -1)), bool(part.any())


def _gradients(net, ours, mode):
    """Return the largest difference of a gradient, each over its largest value."""
    where, apart = places(net), 0.0
    wanted = {}
    for name, value in ours.named_parameters():
        path, _, kind = name.rpartition(".")
        module = net.get_submodule(where[path].path)
        gradient = -module.w.grad if kind == "decay_logit" else getattr(module, kind).grad
        part = gradient.chunk(where[path].parts)[where[path].part] if gradient.ndim else gradient
        wanted[name] = part.reshape(value.shape)
    most = max(float(value.abs().max()) for value in wanted.values())
    for name, value in ours.named_parameters():
        # a bias before batch norm has no gradient in training but rounding
        scale = max(float(wanted[name].abs().max()), 1e-4 * most)
        apart = max(apart, float((value.grad - wanted[name]).abs().max()) / scale)
    return apart


def _statistics(net, ours):
    where, apart = places(net), 0.0
    for name, value in ours.named_buffers():
        path, _, kind = name.rpartition(".")
        if kind.startswith("running_"):
            found = getattr(net.get_submodule(where[path].path), kind)
            apart = max(apart, _apart(value, found.chunk(where[path].parts)[where[path].part]))
    return apart


def _apart(found, wanted):
    return float((found - wanted).abs().max())


@contextlib.contextmanager
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the narrow networks alone")
    quick = parser.parse_args().quick
    logits = ("logits, evaluation", "logits, training", "logits, still images")
    headings = ("network", "parameters", "neurons with equal spikes", *logits, "gradients", "running statistics")
    table(headings, (row(name, case) for name, case in (NETS if quick else NETS | FULL).items()))


def row(name, case):
    """Return a row of the table.

    Raises:
        AssertionError: the networks have not as many parameters.
    """
    found = compare(case)
    if found.parameters[0] != found.parameters[1]:
        raise AssertionError(f"{name}: theirs has {found.parameters[0]} parameters, ours {found.parameters[1]}")
    figures = (found.evaluation, found.training, found.still, found.gradients, found.statistics)
    # each neuron once in evaluation and once in training
    equal = f"{found.neurons[1] / 2:g} of {found.neurons[0] // 2}"
    return name, f"{found.parameters[0]:,}", equal, *(f"{figure:.0e}" if figure else "0" for figure in figures)


if __name__ == "__main__":
    main()
