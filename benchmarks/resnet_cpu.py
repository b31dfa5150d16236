"""A ResNet-18 training step on the CPU with spiking neurons, against the same net with ReLU in their place.

T = 4, batch 16, images of 32 x 32, stages of 64 to 512 channels; convolutions dominate. A step is forward,
cross-entropy and backward. The nets take turns; the figures are medians of ratios of the same round.
"""

import statistics

import torch
from common import arguments, machine, table, take_turns
from peer_neurons import installed
from record import ratio, write
from torch import nn

import sbp_torch


class Elementwise(nn.Module):
    """A function of ``(time, batch, ...)`` as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_neurons(net, make):
    """Replace every spiking neuron of ``net`` by what ``make`` returns."""
    for module in net.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, sbp_torch.LIF):
                setattr(module, name, make())
    return net


def step(net, images, labels):
    """Return a training step but for the optimiser."""

    def run():
        net.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(net(images), labels).backward()

    return run


def main():
    parser = arguments(__doc__, "resnet_cpu")
    parser.add_argument("--compiled", action="store_true", help="under torch.compile as well (compiling takes minutes)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rounds = options.rounds or (2 if options.quick else 7)
    batch, widths = (2, (8, 8, 16, 16)) if options.quick else (16, (64, 128, 256, 512))
    torch.manual_seed(0)
    images, labels = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))

    def net():
        torch.manual_seed(0)
        return sbp_torch.resnet18(widths=widths, time_steps=4)

    nets = {"ReLU": with_neurons(net(), lambda: Elementwise(torch.relu)), "sbp": net()}
    nets["sbp, tensor operations"] = with_neurons(net(), lambda: sbp_torch.LIF(implementation="loop"))
    for name in installed():
        nets[name] = with_neurons(net(), lambda name=name: Elementwise(installed()[name]))
    if options.compiled:
        nets |= {f"{name}, torch.compile": torch.compile(nets[name], fullgraph=True) for name in ("ReLU", "sbp")}
    runs = {name: step(value, images, labels) for name, value in nets.items()}
    times = take_turns(runs, rounds)
    print(f"\nResNet-18 step, T = 4, batch {batch}, {rounds} rounds, {torch.get_num_threads()} threads\n")
    rows = []
    for name, values in times.items():
        base = "ReLU, torch.compile" if name.endswith("torch.compile") else "ReLU"
        rows.append((name, f"{ratio(times, name, base):.3f}", f"{1e3 * statistics.median(values):.0f}"))
    table(("neurons", "of ReLU, likewise compiled or not", "median ms"), rows)
    write(options.out, machine() | {"batch": batch, "widths": widths, "time_steps": 4, "seconds": times})


if __name__ == "__main__":
    main()
