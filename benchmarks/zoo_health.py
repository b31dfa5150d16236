"""Health at birth: every network of the zoo on one batch, before any training; prints docs/zoo.md's table.

Firing rate of the least and the most active neuron layer, neurons that never fire, and those that always do (share over
all layers), and the gradient's norm of each part over that of the last one.

    PYTHONPATH=..:../backends python zoo_health.py [--width 16] [NET ...]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

import sbp_torch
from sbp_core import NetworkSpec, network_spec
from sbp_core.specs.networks import ZOO

BATCH = 4


def health(spec: NetworkSpec, size: int, *, gain: float | None = None) -> dict[str, float | str]:
    """Return what one batch of Gaussian images shows."""
    torch.manual_seed(0)
    net = sbp_torch.Network(spec)
    if gain is not None:
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.constant_(module.weight, gain)
    rates: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, sbp_torch.LIF):
            module.register_forward_hook(lambda _, __, out, name=name: rates.update({name: out.detach().mean((0, 1))}))
    extent = [size if known is None else known for known in spec.image_size]
    lead = (BATCH,) if spec.repeats else (spec.time_steps, BATCH)
    logits = net(torch.randn(*lead, spec.in_channels, *extent))
    nn.functional.cross_entropy(logits, torch.arange(BATCH) % spec.num_classes).backward()
    layers = {name: float(rate.mean()) for name, rate in rates.items()}
    every = torch.cat([rate.flatten() for rate in rates.values()])
    norms = {}
    for part in spec.parts:
        gradients = [p.grad for p in net.get_submodule(part).parameters() if p.grad is not None and p.ndim > 1]
        if gradients:
            norms[part] = float(torch.sqrt(sum(g.square().sum() for g in gradients)))
    first, *_, last = (*norms.values(), *norms.values())
    least, most = min(layers, key=layers.__getitem__), max(layers, key=layers.__getitem__)
    return {
        "layers": len(layers),
        "least": f"{100 * layers[least]:.1f} % ({least})",
        "most": f"{100 * layers[most]:.1f} % ({most})",
        "silent layers": sum(rate == 0.0 for rate in layers.values()),
        "never": f"{100 * float((every == 0).double().mean()):.0f} %",
        "always": f"{100 * float((every == 1).double().mean()):.0f} %",
        "first / last": f"{first / last:.2g}" if last else "last 0",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nets", nargs="*", default=list(ZOO))
    parser.add_argument("--width", type=int)
    parser.add_argument("--gain", type=float, help="what the scale of every batch norm starts at")
    options = parser.parse_args()
    heads = ["layers", "least", "most", "silent layers", "never", "always", "first / last"]
    print("| network | " + " | ".join(heads) + " |\n|---" + "|---" * len(heads) + "|")
    for name in options.nets:
        spec = network_spec(name)
        if options.width:
            spec = spec.with_width(options.width)
        large = spec.kind in ("sew_resnet", "spikformer", "qkformer") or name.startswith("ms_")
        found = health(spec, 64 if large else 32, gain=options.gain)
        print(f"| {name} | " + " | ".join(str(found[head]) for head in heads) + " |", flush=True)


if __name__ == "__main__":
    np.random.seed(0)
    main()
