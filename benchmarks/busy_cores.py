"""A LIF layer and a small ResNet's training step while other processes keep the cores busy, and while none does.

Fused loops against the same neurons in tensor operations, and ReLU. Every DataLoader with workers makes such a machine.
The contenders take turns; the figures are medians, and medians of ratios of the same round.
"""

import statistics
import subprocess
import sys

import torch
from common import arguments, differentiated, machine, table, take_turns
from record import ratio, write
from resnet_cpu import Elementwise, step, with_neurons

import sbp_torch
from sbp_core import ResNetSpec

# they end by themselves once their parent is gone
SPIN = """
import os
parent = os.getppid()
print("computing", flush=True)
while os.getppid() == parent:
    sum(range(1_000_000))
"""


class Busy:
    """So many processes that do nothing but compute, while it lasts."""

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        command = [sys.executable, "-S", "-c", SPIN]
        self.workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(self.count)]
        for worker in self.workers:
            worker.stdout.readline()  # it has begun

    def __exit__(self, *error):
        for worker in self.workers:
            worker.kill()
            worker.communicate()


def contenders():
    """Return what is timed: by case, each contender's run."""
    x = torch.randn(4, 8, 32, 16, 16, requires_grad=True)
    cotangent = torch.randn_like(x)
    kinds = {"fused": sbp_torch.LIF(implementation="fused"), "tensor operations": sbp_torch.LIF(implementation="loop")}
    layer = {name: differentiated(neuron, x, cotangent) for name, neuron in kinds.items()}
    layer["ReLU"] = differentiated(torch.relu, x, cotangent)

    images, labels = torch.rand(16, 3, 16, 16), torch.randint(10, (16,))
    spec = ResNetSpec(depths=(1, 1, 1, 1), widths=(16, 16, 32, 32), time_steps=4)
    make = {
        "fused": lambda: sbp_torch.LIF(spec.neuron, implementation="fused"),
        "tensor operations": lambda: sbp_torch.LIF(spec.neuron, implementation="loop"),
        "ReLU": lambda: Elementwise(torch.relu),
    }
    nets = {name: step(with_neurons(sbp_torch.ResNet(spec), neuron), images, labels) for name, neuron in make.items()}
    return {"LIF layer (4, 8, 32, 16, 16)": layer, "ResNet-10 step, batch 16": nets}


def main():
    parser = arguments(__doc__, "busy_cores")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="how many other processes compute")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rounds = options.rounds or (3 if options.quick else 31)
    torch.manual_seed(0)
    found, rows, about = {}, [], machine()
    for case, runs in contenders().items():
        for busy in options.busy:
            with Busy(busy):
                times = take_turns(runs, rounds)
            found[f"{case}, {busy} busy"] = times
            for name, values in times.items():
                against = "-" if name == "tensor operations" else f"{ratio(times, name, 'tensor operations'):.2f}"
                rows.append((case, str(busy), name, f"{1e3 * statistics.median(values):.2f}", against))
    table(("case", "busy processes", "neurons", "median ms", "of tensor operations"), rows)
    write(options.out, about | {"rounds": rounds, "seconds": found})


if __name__ == "__main__":
    main()
