"""Networks to attach a shortcut to: your own, SpikingJelly's, snnTorch's, without time, with tokens."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

import sbp_torch
from sbp_core import ResNetSpec

CLASSES, BATCH, STEPS = 5, 4, 3


class OwnNet(nn.Module):
    """A network that a user of sbp writes: time leading, still images repeated."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.spiking = sbp_torch.LIF()
        self.hidden = nn.Sequential(nn.Linear(4, 6), sbp_torch.LIF(threshold=0.2))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images):
        x = self.spiking(self.features(images).expand(STEPS, -1, -1, -1, -1))
        return self.head(self.hidden(x.mean((3, 4)))).mean(0)


class LeakyStep(nn.Module):
    """One step of a neuron that gives (spikes, state), as snnTorch's and Norse's cells do."""

    def __init__(self):
        super().__init__()
        self.spec = sbp_torch.LIF(threshold=0.1).spec

    def forward(self, x, state=None):
        spikes, state = sbp_torch.lif(x.unsqueeze(0), self.spec, state)
        return spikes[0], state


class LoopNet(nn.Module):
    """A loop over the steps inside the network; the tapped neuron is called at each."""

    def __init__(self):
        super().__init__()
        self.conv, self.first = nn.Conv2d(2, 4, 3, padding=1), LeakyStep()
        self.linear, self.second = nn.Linear(4 * 36, 6), LeakyStep()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images):
        first = second = None
        logits = 0.0
        for _ in range(STEPS):
            spikes, first = self.first(self.conv(images), first)
            spikes, second = self.second(self.linear(spikes.flatten(1)), second)
            logits = logits + self.head(spikes)
        return logits / STEPS


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.down(x))


def ann_resnet():
    return nn.Sequential(
        Residual(2, 4, 1), Residual(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)
    )


class Transformer(nn.Module):
    """Tokens, channels last."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(2, 8, 2, 2)
        layers = (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2))
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images):
        return self.head(self.blocks(self.embed(images).flatten(2).transpose(1, 2)).mean(1))


def spikingjelly_net(step_mode):
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        layer.BatchNorm2d(4),
        neuron.LIFNode(surrogate_function=surrogate.ATan()),
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(4, CLASSES),
    )
    functional.set_step_mode(net, step_mode)
    return net


class SpikingJellyLoop(nn.Module):
    """Their single-step form, with the loop inside."""

    def __init__(self):
        super().__init__()
        self.body = spikingjelly_net("s")

    def forward(self, images):
        return sum(self.body(images) for _ in range(STEPS)) / STEPS


class SnnTorchLoop(nn.Module):
    """The network of snnTorch's tutorials: a loop inside, spikes and membranes of each step out."""

    def __init__(self):
        import snntorch as snn
        from snntorch import surrogate

        super().__init__()
        self.fc1, self.lif1 = nn.Linear(72, 8), snn.Leaky(beta=0.9, spike_grad=surrogate.atan())
        self.fc2, self.lif2 = nn.Linear(8, CLASSES), snn.Leaky(beta=0.9, spike_grad=surrogate.atan())

    def forward(self, images):
        first, second = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for _ in range(STEPS):
            hidden, first = self.lif1(self.fc1(images.flatten(1)), first)
            spike, second = self.lif2(self.fc2(hidden), second)
            spikes.append(spike)
            membranes.append(second)
        return torch.stack(spikes), torch.stack(membranes)


def reset_spikingjelly(model):
    from spikingjelly.activation_based import functional

    functional.reset_net(model)


def nothing(model):
    """The network remembers nothing."""


@dataclass
class Attached:
    """A network to attach a shortcut to."""

    make: Callable[[], nn.Module]
    taps: list[str]
    options: dict = field(default_factory=dict)
    package: str = "torch"
    repeated: bool = False
    reset: Callable[[nn.Module], None] = nothing
    logits: Callable = lambda result: result  # the main logits of what the network returns
    picklable: bool = True
    scores: Callable = lambda logits: logits  # what the user's loss takes


def mean_over_time(logits):
    return logits.mean(0)


ATTACHED = {
    "own net": Attached(OwnNet, ["spiking", "hidden.1"], {"time_axis": 0}),
    "own net, loop over steps": Attached(LoopNet, ["first", "second"], {"time_axis": "calls", "select": 0}),
    "sbp ResNet": Attached(
        lambda: sbp_torch.ResNet(
            ResNetSpec(depths=(1, 1), widths=(3, 4), in_channels=2, num_classes=CLASSES, time_steps=STEPS)
        ),
        ["stem", "layer1"],
    ),
    "ANN ResNet": Attached(ann_resnet, ["0", "1"], {"time_axis": None}),
    "ANN transformer": Attached(Transformer, ["blocks.0", "blocks.1"], {"time_axis": None, "channels": "last"}),
    "SpikingJelly, multi-step": Attached(
        lambda: spikingjelly_net("m"),
        ["2"],
        {"time_axis": 0},
        "spikingjelly",
        True,
        reset_spikingjelly,
        scores=mean_over_time,
    ),
    "SpikingJelly, loop over steps": Attached(
        SpikingJellyLoop, ["body.2"], {"time_axis": "calls"}, "spikingjelly", reset=reset_spikingjelly
    ),
    "snnTorch, loop over steps": Attached(
        SnnTorchLoop,
        ["lif1"],
        {"time_axis": "calls", "select": 0, "output": 1},
        "snntorch",
        logits=lambda result: result[1],
        picklable=False,
        scores=mean_over_time,
    ),
}


def installed(entry):
    return importlib.util.find_spec(entry.package) is not None
