"""Small networks, every kind of layer among them, for each adapter's tests to hold against the oracle."""

from __future__ import annotations

import numpy as np

from sbp_core import ArcTan, CustomSpec, LIFSpec, LossSpec, ResNetSpec
from sbp_core.backend import Batch, ShortcutNetwork
from sbp_core.reference.network import ReferenceNetwork
from sbp_core.reference.networks import initial_weights
from sbp_core.specs.joins import Attention, Gate
from sbp_core.specs.layers import (
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalPool,
    HeadSum,
    Linear,
    MaxPool,
    Neuron,
    Relu,
    Repeat,
    TimeMean,
    TimeScale,
    Vote,
)
from sbp_core.specs.structure import Parallel, Residual, numbered, sequence

SPIKES = LIFSpec(decay=0.6, threshold=0.4, surrogate=ArcTan())
CLASSES = 4
STEPS = 3


def _token(channels, **parts):
    return sequence(conv=Conv(channels=channels, kernel=1), bn=BatchNorm(), neuron=Neuron(spec=SPIKES), **parts)


def _net(layers, size=None):
    return CustomSpec(layers=layers, size=size, num_classes=CLASSES, in_channels=2, time_steps=STEPS)


_HEAD = {"pool": GlobalPool(), "head": Linear(features=CLASSES), "mean": TimeMean()}

SPECS = {
    "resnet": ResNetSpec(
        depths=(2, 1), widths=(4, 6), num_classes=CLASSES, in_channels=2, time_steps=STEPS, neuron=SPIKES
    ),
    "resnet, imagenet stem": ResNetSpec(
        depths=(1,),
        widths=(4,),
        stem="imagenet",
        num_classes=CLASSES,
        in_channels=2,
        time_steps=STEPS,
        neuron=SPIKES.replace(learn_decay=True, learn_initial=True),
    ),
    # pools of potentials and of spikes, groups, biases, a learnt factor for each step, a vote at the end
    "vgg": _net(
        sequence(
            features=sequence(
                conv=Conv(channels=4, initial="uniform"),
                bn=BatchNorm(scale=0.8),
                repeat=Repeat(time_steps=STEPS),
                scale=TimeScale(time_steps=STEPS),
                neuron=Neuron(spec=SPIKES),
                pool=MaxPool(kernel=2),
            ),
            grouped=sequence(
                conv=Conv(channels=6, groups=2, kernel=2, padding=1, bias=True),
                pool=AvgPool(kernel=3, stride=2, padding=1),
                neuron=Neuron(spec=SPIKES),
                drop=Dropout(rate=0.0),
            ),
            flat=Flatten(),
            classifier=sequence(fc=Linear(features=8), neuron=Neuron(spec=SPIKES)),
            head=Linear(features=2 * CLASSES, bias=False),
            vote=Vote(voters=2),
            mean=TimeMean(),
        ),
        (8, 6),
    ),
    "max pool of potentials": _net(
        sequence(
            stem=sequence(
                repeat=Repeat(time_steps=STEPS),
                conv=Conv(channels=4),
                bn=BatchNorm(),
                pool=MaxPool(kernel=3, stride=2, padding=1),
                neuron=Neuron(spec=SPIKES),
            ),
            deep=sequence(conv=Conv(channels=4, groups=4), neuron=Neuron(spec=SPIKES)),
            **_HEAD,
        )
    ),
    "joins": _net(
        sequence(
            stem=sequence(conv=Conv(channels=4), repeat=Repeat(time_steps=STEPS), neuron=Neuron(spec=SPIKES)),
            blocks=numbered(
                Residual(body=_token(4), join="and"),
                Residual(body=_token(6), shortcut=_token(6), join="iand", after=sequence(relu=Relu())),
                Residual(body=_token(6), join="add"),
            ),
            **_HEAD,
        )
    ),
    "attention": _net(
        sequence(
            stem=sequence(
                repeat=Repeat(time_steps=STEPS), conv=Conv(channels=4), bn=BatchNorm(), neuron=Neuron(spec=SPIKES)
            ),
            attention=Residual(
                body=sequence(
                    heads=Parallel(
                        paths=tuple((name, _token(4)) for name in "qkv"), join=Attention(heads=2, scale=0.125)
                    ),
                    neuron=Neuron(spec=SPIKES.replace(threshold=0.3)),
                )
            ),
            gate=Parallel(
                paths=(("k", _token(6)), ("q", _token(4, sum=HeadSum(heads=2), gate=Neuron(spec=SPIKES)))),
                join=Gate(),
            ),
            **_HEAD,
        )
    ),
    "frames only": _net(
        sequence(stem=sequence(conv=Conv(channels=3), bn=BatchNorm(), neuron=Neuron(spec=SPIKES)), **_HEAD)
    ),
}

#: Of networks with branches, by name.
NETS = {
    "resnet": ShortcutNetwork(SPECS["resnet"], ("stem", "layer1"), LossSpec(combine="logits")),
    "resnet, convolutional branches": ShortcutNetwork(SPECS["resnet"], ("layer1",), LossSpec(), "convolutional"),
    "resnet, imagenet stem": ShortcutNetwork(SPECS["resnet, imagenet stem"], ("stem",), LossSpec(distillation=0.3)),
    "vgg": ShortcutNetwork(SPECS["vgg"], ("features", "grouped", "classifier"), LossSpec()),
    "max pool of potentials": ShortcutNetwork(SPECS["max pool of potentials"], ("stem",), LossSpec(combine="logits")),
    "joins": ShortcutNetwork(SPECS["joins"], ("stem",), LossSpec()),
    "attention": ShortcutNetwork(SPECS["attention"], ("attention", "gate"), LossSpec(combine="logits")),
    "frames only": ShortcutNetwork(SPECS["frames only"], ("stem",), LossSpec(), "convolutional"),
}


def drawn(name, *, soft=False):
    """Return weights in which nothing is trivial, and a batch, far from every jump: the first such draw."""
    network = NETS[name]
    spec = network.spec
    for attempt in range(100):
        random = np.random.default_rng([20261125, sorted(NETS).index(name), attempt])
        weights = {}
        for weight, start in initial_weights(spec, attempt, network.taps, network.branch).items():
            value = np.asarray(start, np.float64)
            if weight.endswith(".running_var"):
                value = random.uniform(0.6, 1.4, value.shape)
            elif value.ndim < 2:
                value = value + random.normal(0.1, 0.2, value.shape)
            weights[weight] = value
        size = [8 if extent is None else extent for extent in spec.image_size]
        lead = (2,) if spec.repeats else (STEPS, 2)
        labels = random.integers(0, CLASSES, 2)
        labels = np.eye(CLASSES)[labels] * 0.7 + 0.05 if soft else labels
        batch = Batch(random.normal(size=(*lead, spec.in_channels, *size)), labels)
        reference = ReferenceNetwork(network, weights)
        margins = []
        for training in (True, False):
            reference.forward(batch.images, training=training)
            margins.append(reference.margin)
        if min(margins) > 1e-6:
            return weights, batch
    raise RuntimeError(f"no draw of {name!r} keeps off every jump")
