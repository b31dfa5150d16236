"""One LIF layer, forward and backward on the CPU, as a multiple of three copies of its tensor: `make bench`.

The paper's neuron (hard reset, rectangle of width 1) in float32. Three copies are all the memory traffic it needs.
Contenders take turns within each round; the figures are medians of their ratios to the copies of the same round.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from sbp_core import LIFSpec

SPEC = LIFSpec()


def copies(x, cotangent):
    """Return what moves as many bytes as the layer must."""
    source = x.detach()

    def run():
        return [source.clone() for _ in range(3)]

    return run


def sbp(implementation):
    """Return sbp's layer by one of its implementations."""

    def make(x, cotangent):
        import sbp_torch

        layer = sbp_torch.LIF(SPEC, implementation=implementation)
        return differentiated(layer, x, cotangent)

    return make


def sbp_compiled(x, cotangent):
    """Return sbp's layer under torch.compile."""
    import sbp_torch

    return differentiated(torch.compile(sbp_torch.LIF(SPEC), fullgraph=True), x, cotangent)


def spikingjelly(x, cotangent):
    """Return SpikingJelly's node in its multi-step mode."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.Rect(), step_mode="m")

    def forward(value):
        functional.reset_net(node)
        return node(value)

    return differentiated(forward, x, cotangent)


def snntorch(x, cotangent):
    """Return snnTorch's neuron in the loop its users write."""
    import snntorch as snn

    node = snn.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False)

    def forward(value):
        memory, spikes = torch.zeros_like(value[0]), []
        for current in value:
            spike, memory = node(current, memory)
            spikes.append(spike)
        return torch.stack(spikes)

    return differentiated(forward, x, cotangent)


def norse(x, cotangent):
    """Return Norse's box cell lifted over time."""
    from norse.torch import LIFBox, LIFBoxParameters

    layer = LIFBox(LIFBoxParameters(tau_mem_inv=torch.as_tensor(500.0)))

    def forward(value):
        state, spikes = None, []
        for current in value:
            spike, state = layer(current, state)
            spikes.append(spike)
        return torch.stack(spikes)

    return differentiated(forward, x, cotangent)


def differentiated(forward, x, cotangent):
    """Return a forward and backward pass of ``forward``."""

    def run():
        (gradient,) = torch.autograd.grad(forward(x), x, cotangent)
        return gradient

    return run


CONTENDERS = {
    "three copies": ("torch", copies),
    "sbp, fused loops": ("numba", sbp("fused")),
    "sbp, tensor operations": ("torch", sbp("loop")),
    "sbp, torch.compile": ("torch", sbp_compiled),
    "SpikingJelly": ("spikingjelly", spikingjelly),
    "snnTorch": ("snntorch", snntorch),
    "Norse": ("norse", norse),
}


def measure(shape, rounds):
    """Return each contender's times in seconds, round by round."""
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    cotangent = torch.randn(shape)
    runs = {
        name: make(x, cotangent)
        for name, (package, make) in CONTENDERS.items()
        if importlib.util.find_spec(package) is not None
    }
    for run in runs.values():
        run()
        run()
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, action="append", help="batch sizes; 16 and 64 by default")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/neuron_cpu.json"))
    arguments = parser.parse_args()
    installed = [p for p in ("torch", "numba", "spikingjelly", "snntorch", "norse") if importlib.util.find_spec(p)]
    result = {
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": {package: importlib.metadata.version(package) for package in installed},
        "spec": SPEC.to_dict(),
        "cases": [],
    }
    for batch in arguments.batch or [16, 64]:
        shape = (4, batch, 64, 32, 32)
        times = measure(shape, arguments.rounds)
        floor = times["three copies"]
        print(f"\nLIF forward + backward, float32, shape {shape}, {arguments.rounds} rounds\n")
        print("| | of three copies | median ms |\n|---|---|---|")
        for name, values in times.items():
            ratio = statistics.median(value / base for value, base in zip(values, floor, strict=True))
            print(f"| {name} | {ratio:.2f} | {1e3 * statistics.median(values):.1f} |")
        result["cases"].append({"shape": shape, "seconds": times})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    partial = arguments.out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1))
    partial.replace(arguments.out)


if __name__ == "__main__":
    main()
