"""Networks that are deep on purpose: ``sbp train digits --net benchmarks.deep_nets:vgg25 --width none``."""

from sbp_core import CustomSpec, NetworkSpec, presets
from sbp_core.specs.layers import Conv, Flatten, LayerSpec, Linear, MaxPool, Neuron, Repeat, TimeMean
from sbp_core.specs.networks.vgg import VGGSpec
from sbp_core.specs.structure import sequence


def vgg25(num_classes: int, in_channels: int, time_steps: int) -> NetworkSpec:
    """Return a plain VGG of 24 convolutions with batch norm, and the linear layer behind the mean over space."""
    stages = ((8,) * 8, (16,) * 8, (32,) * 8)
    return VGGSpec(stages=stages, num_classes=num_classes, in_channels=in_channels, time_steps=time_steps)


def tutorial(num_classes: int, in_channels: int, time_steps: int, size: tuple[int, int]) -> NetworkSpec:
    """Return convolutions with biases, max pools and snnTorch's Leaky, without batch norm, and many of them.

    The layers of a usual tutorial net (two convolutions of 5x5, a pool behind each, a linear layer), with five
    convolutions of 3x3 and equal width more behind each pool.
    """
    neuron = Neuron(spec=presets.snntorch_leaky(beta=0.9))
    layers: dict[str, LayerSpec] = {}
    for stage, width in enumerate((12, 24), start=1):
        repeat = {"repeat": Repeat(time_steps=time_steps)} if stage == 1 else {}
        first: dict[str, LayerSpec] = {"conv1": Conv(channels=width, kernel=5, bias=True, initial="uniform")}
        part = first | repeat | {"pool": MaxPool(kernel=2), "neuron1": neuron}
        for index in range(2, 7):
            part |= {f"conv{index}": Conv(channels=width, bias=True, initial="uniform"), f"neuron{index}": neuron}
        layers[f"stage{stage}"] = sequence(part)
    net = sequence(layers, flat=Flatten(), head=Linear(features=num_classes), mean=TimeMean())
    return CustomSpec(layers=net, size=size, num_classes=num_classes, in_channels=in_channels, time_steps=time_steps)
