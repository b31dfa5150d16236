"""Which part of a calibrated start matters, for docs/doctor.md: deep ResNets, a plain VGG, transformers; 60 steps each.

``PYTHONPATH=. python benchmarks/start_parts.py`` prints a line a run; one that benchmarks/results/start_parts.json has
is not made again.
"""

import json
import os

import torch
from record import RESULTS, write

import sbp_torch
from sbp_core import Rectangle
from sbp_core.signal import identity_weights
from sbp_core.signal.identity import passing
from sbp_core.specs.networks.ms_resnet import MSResNetSpec
from sbp_core.specs.networks.qkformer import QKFormerSpec
from sbp_core.specs.networks.sew_resnet import SEWResNetSpec
from sbp_core.specs.networks.spikformer import TRANSFORMER_NEURON, SpikformerSpec
from sbp_core.specs.networks.vgg import VGGSpec
from sbp_lab.data import open_data
from sbp_lab.doctor import Case, start, train
from sbp_lab.loader import Loader
from sbp_lab.recipe import Recipe
from sbp_lab.starts import time_first

FILE = RESULTS / "start_parts.json"
STEPS = 60
SIZES = {"digits": None, "fashion_mnist": (14, 14)}
THRESHOLD, WIDTH = {"threshold": 0.5}, {"surrogate": Rectangle(height=0.5, width=2.0)}
NARROW = {"surrogate": Rectangle()}
PASSING = {name: getattr(passing(TRANSFORMER_NEURON), name) for name in ("threshold", "surrogate")}
#: Net and parts: what of the neuron is changed, the scale of residual paths, the random share of plain kernels, whether
#: rates are brought into range; None leaves as it is. The usual neuron's surrogate has the width already.
NOTHING = ({}, None, None, False)
PARTS = {
    "resnet34": {
        "nothing": NOTHING,
        "threshold": (THRESHOLD, None, None, False),
        "residual": ({}, 0.1, None, False),
        "threshold, narrow surrogate, residual": (THRESHOLD | NARROW, 0.1, None, False),
        "threshold, residual": (THRESHOLD | WIDTH, 0.1, None, False),
        "threshold, residual, rates": (THRESHOLD | WIDTH, 0.1, None, True),
        "threshold, residual 0": (THRESHOLD | WIDTH, 0.0, None, False),
        "threshold, residual 0.3": (THRESHOLD | WIDTH, 0.3, None, False),
    },
    "vgg14": {
        "nothing": NOTHING,
        "rates": ({}, None, None, True),
        "kernels": ({}, None, 0.3, False),
        "kernels, rates": ({}, None, 0.3, True),
        "kernels, threshold": (THRESHOLD, None, 0.3, False),
        "kernels, random 0.1": ({}, None, 0.1, False),
        "kernels, random 0.6": ({}, None, 0.6, False),
    },
    "sew34": {
        "nothing": NOTHING,
        "threshold, residual": (THRESHOLD | WIDTH, 0.1, None, False),
        "threshold, residual, rates": (THRESHOLD | WIDTH, 0.1, None, True),
    },
    "ms34": {"nothing": NOTHING},
    "ms34_small": {"nothing": NOTHING},
    "spikformer": {
        "nothing": NOTHING,
        "threshold, residual, kernels, rates": (PASSING, 0.1, 0.3, True),
        "rates": ({}, None, None, True),
    },
    "qkformer": {"nothing": NOTHING, "threshold, residual, kernels, rates": (PASSING, 0.1, 0.3, True)},
}
#: Nets that are run on digits alone.
SMALL = ("spikformer", "qkformer")


def vgg14(num_classes, in_channels, time_steps):
    """Return a plain net of 12 convolutions."""
    stages = ((8,) * 4, (16,) * 4, (32,) * 4)
    return VGGSpec(stages=stages, num_classes=num_classes, in_channels=in_channels, time_steps=time_steps)


def sew34(num_classes, in_channels, time_steps):
    """Return SEW-ResNet-34 with the stem for small images."""
    return SEWResNetSpec(**_BLOCKS, num_classes=num_classes, in_channels=in_channels, time_steps=time_steps)


def ms34(num_classes, in_channels, time_steps):
    """Return MS-ResNet-34 with the stem for small images; its residual paths start at 0."""
    return MSResNetSpec(**_BLOCKS, num_classes=num_classes, in_channels=in_channels, time_steps=time_steps)


def ms34_small(num_classes, in_channels, time_steps):
    """Return the same with residual paths that start at 0.1."""
    return ms34(num_classes, in_channels, time_steps).replace(residual_scale=0.1)


def spikformer(num_classes, in_channels, time_steps):
    """Return a Spikformer of four blocks of 64 channels."""
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "time_steps": time_steps}
    return SpikformerSpec(dim=64, depth=4, heads=4, **sizes)


def qkformer(num_classes, in_channels, time_steps):
    """Return a QKFormer of 64 channels in its last stage."""
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "time_steps": time_steps}
    return QKFormerSpec(dim=64, heads=(4, 4, 4), **sizes)


_BLOCKS = {"depths": (3, 4, 6, 3), "widths": (8, 16, 32, 64)}


def made(recipe, source, parts):
    """Return the case with these parts of a start."""
    neuron, residual, mix, rates = parts
    recipe, spec, weights = start(recipe, source)
    spec = spec.replace(neuron=spec.neuron.replace(**neuron))
    if rates:
        net = sbp_torch.Network(spec)
        sbp_torch.import_weights(net, weights)
        with Loader(source, batch_size=recipe.batch_size, seed=recipe.seed, size=recipe.size) as loader:
            images, _ = next(loader.epoch(1))
        sbp_torch.calibrate(net, time_first(images, -3), residual=residual, mix=mix)
        return Case(recipe, spec, sbp_torch.export_weights(net))
    return Case(recipe, spec, identity_weights(spec, weights, residual=residual, mix=mix))


def main():
    """Make the runs that are missing, one after the other."""
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text()) if FILE.is_file() else []
    for data, size in SIZES.items():
        source = open_data(data, os.environ.get("SBP_DATA"))
        for net, parts in PARTS.items():
            if net in SMALL and data != "digits":
                continue
            for name, given in parts.items():
                if any((row["data"], row["net"], row["parts"]) == (data, net, name) for row in rows):
                    continue
                own = {"net": net, "width": 8} if net == "resnet34" else {"net": f"benchmarks.start_parts:{net}"}
                recipe = Recipe(**own, data=data, size=size, time_steps=2, batch_size=64, method="vanilla")
                trial, _ = train(made(recipe, source, given), source, steps=STEPS)
                rows.append({"data": data, "net": net, "parts": name, "loss": trial.loss, "accuracy": trial.accuracy})
                write(FILE, rows)
                print(
                    f"{data}, {net}, {name}: loss {trial.loss:.2f}, accuracy {100 * trial.accuracy:.1f} %", flush=True
                )


if __name__ == "__main__":
    main()
