"""Every check that needs a GPU in one go, within ten minutes, its results in one folder.

Conformance on the device with TF32 off; the fused loops against tensor operations in every dtype; the speed of a LIF
layer against the device's copies, T = 1..64, in float32 and bfloat16; the memory kept for the backward; a ResNet-18
training step in bfloat16 against SpikingJelly's fastest backend; a linear layer and LIF neurons over 500 steps. Each
part writes its file when it is done, and a part that fails is written down and does not stop the others.
"""

import argparse
import importlib.util
import statistics
import time
import traceback
from pathlib import Path

import torch
from common import differentiated, machine, table, take_turns, three_copies
from peer_neurons import installed
from record import RESULTS, ratio, write
from torch import nn

import sbp_torch
from sbp_core.specs.surrogates import FAMILIES


class Checks:
    """The parts, on one device.

    Args:
        device: "cuda", or "cpu" to see that everything runs.
        quick: small sizes and few rounds.
    """

    def __init__(self, device, quick):
        self.device, self.quick = device, quick
        self.rounds = 2 if quick else 20
        self.synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None

    def random(self, *shape, dtype=torch.float32):
        """Return a random input that wants a gradient."""
        return torch.randn(shape, device=self.device, dtype=dtype, requires_grad=True)

    def conformance(self):
        """Run the neuron and surrogate levels with tensors on the device, and return what failed."""
        from sbp_conformance.harness import as_backend
        from sbp_conformance.levels import cases_of
        from sbp_torch import engine

        # the adapter makes its tensors on the default device
        torch.set_default_device(self.device)
        try:
            engines = {"tensor operations": engine.make_engine(), "fused": engine.make_fused_engine()}
            adapters = {name: as_backend(found) for name, found in engines.items()}
            failed, run = [], 0
            for name, adapter in adapters.items():
                dtypes = ("float32",) if self.quick else ("float64", "float32", "bfloat16")
                for case in (*cases_of("surrogate"), *cases_of("neuron"))[:: 40 if self.quick else 1]:
                    if name == "fused" and case.level != "neuron":
                        continue
                    for dtype in (dtype for dtype in dtypes if dtype in case.dtypes_in("eager")):
                        run += 1
                        problems = [f.problem for f in case.run(adapter, dtype=dtype, mode="eager") if f.problem]
                        if problems:
                            failed.append({"case": case.name, "dtype": dtype, "by": name, "problems": problems})
        finally:
            torch.set_default_device("cpu")
        return {"run": run, "failed": failed}

    def equality(self):
        """Compare the fused loops with tensor operations: every surrogate, every dtype."""
        found = []
        dtypes = (torch.float32,) if self.quick else (torch.float64, torch.float32, torch.bfloat16, torch.float16)
        for family in list(FAMILIES)[:: 5 if self.quick else 1]:
            for dtype in dtypes:
                x = self.random(20, 16, 1000, dtype=dtype)
                if sbp_torch.implementation_for(x) != "fused":
                    continue
                cotangent = torch.randn_like(x)
                results = []
                for implementation in ("fused", "loop"):
                    output = sbp_torch.LIF(surrogate=family, implementation=implementation)(x)
                    results.append((output, torch.autograd.grad(output, x, cotangent)[0].double()))
                (spikes, gradient), (expected, wanted) = results
                off = ((gradient - wanted).abs().max() / wanted.abs().max()).item()
                same = torch.equal(spikes, expected)
                found.append({"surrogate": family, "dtype": str(dtype), "same spikes": same, "gradient off": off})
        return found

    def layer(self):
        """Time a LIF layer against three copies and against the copy bandwidth."""
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            for steps in (1, 4) if self.quick else (1, 2, 4, 8, 16, 32, 64):
                neurons = (1 << 12 if self.quick else 1 << 26) // steps
                x = self.random(steps, 1, neurons, dtype=dtype)
                cotangent = torch.randn_like(x)
                runs = {"three copies": three_copies(x), "sbp": differentiated(sbp_torch.LIF(), x, cotangent)}
                times = take_turns(runs, self.rounds, self.synchronize)
                copy = statistics.median(times["three copies"]) / (6 * x.nbytes)
                # it reads x and writes spikes; reads x and the cotangent and writes the gradient
                ours = statistics.median(times["sbp"]) / (5 * x.nbytes)
                found.append(
                    {
                        "dtype": str(dtype),
                        "steps": steps,
                        "implementation": sbp_torch.implementation_for(x),
                        "of three copies": ratio(times, "sbp", "three copies"),
                        "of the copy bandwidth": copy / ours,
                    }
                )
        return found

    def memory(self):
        """Return what the backward of a LIF layer keeps, over the input's size."""
        x = self.random(16, 16, 1024 if self.quick else 65536)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
            output = sbp_torch.LIF()(x)
        found = {"kept over input": sum(value.nbytes for value in kept) / x.nbytes}
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            torch.autograd.grad(output, x, torch.ones_like(output))
            found["peak in the backward over input"] = (torch.cuda.max_memory_allocated() - before) / x.nbytes
        return found

    def resnet(self):
        """Time a ResNet-18 step in bfloat16, channels last, with our neurons, SpikingJelly's and ReLU."""
        from resnet_cpu import Elementwise, with_neurons

        batch, widths = (2, (4, 4, 8, 8)) if self.quick else (128, (64, 128, 256, 512))
        images = torch.rand(batch, 3, 32, 32, device=self.device).to(memory_format=torch.channels_last)
        labels = torch.randint(10, (batch,), device=self.device)

        def net():
            torch.manual_seed(0)
            made = sbp_torch.resnet18(widths=widths, time_steps=4).to(self.device)
            return made.to(memory_format=torch.channels_last)

        nets = {"ReLU": with_neurons(net(), lambda: Elementwise(torch.relu)), "sbp": net()}
        if importlib.util.find_spec("spikingjelly") is not None:
            nets["SpikingJelly"] = with_neurons(net(), lambda: Elementwise(self.spikingjelly()))
        runs, peaks = {}, {}
        for name, made in nets.items():

            def step(made=made):
                made.zero_grad(set_to_none=True)
                with torch.autocast(self.device, torch.bfloat16):
                    loss = nn.functional.cross_entropy(made(images), labels)
                loss.backward()

            runs[name] = step
            if self.device == "cuda":
                step()
                torch.cuda.reset_peak_memory_stats()
                step()
                peaks[name] = torch.cuda.max_memory_allocated()
        times = take_turns(runs, self.rounds, self.synchronize)
        return {"of ReLU": {name: ratio(times, name, "ReLU") for name in times}, "peak bytes": peaks, "seconds": times}

    def spikingjelly(self):
        """Return SpikingJelly's node with its fastest backend."""
        from spikingjelly.activation_based import functional, neuron, surrogate

        node = neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.Rect(), step_mode="m")
        node = node.to(self.device)
        if self.device == "cuda":
            node.backend = "triton"

        def forward(x):
            functional.reset_net(node)
            return node(x)

        return forward

    def open_neuromorphic(self):
        """Time a linear layer and LIF neurons, 16 thousand of them, a batch of 16, 500 steps; peers beside."""
        steps, neurons = (5, 64) if self.quick else (500, 16_000)
        linear = nn.Linear(neurons, neurons, device=self.device)
        x = self.random(steps, 16, neurons)
        runs = {}
        for name, forward in ({"sbp": sbp_torch.LIF()} | installed()).items():

            def step(forward=forward):
                forward(linear(x)).sum().backward()

            runs[name] = step
        times = take_turns(runs, min(self.rounds, 5), self.synchronize)
        return {name: statistics.median(values) for name, values in times.items()}


PARTS = ("equality", "layer", "memory", "resnet", "open_neuromorphic", "conformance")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu", help="the folder of the results")
    parser.add_argument("--part", action="append", choices=PARTS, help="all unless given")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    checks = Checks(options.device, options.quick)
    summary = machine(options.device) | {"parts": {}}
    for part in options.part or PARTS:
        start = time.perf_counter()
        try:
            write(options.out / f"{part}.json", {"result": getattr(checks, part)()})
            outcome = "done"
        except Exception:  # the other parts still run
            outcome = traceback.format_exc()
        summary["parts"][part] = {"outcome": outcome, "seconds": time.perf_counter() - start}
        write(options.out / "summary.json", summary)
    table(
        ("part", "outcome", "seconds"),
        [
            (name, part["outcome"].strip().splitlines()[-1], f"{part['seconds']:.0f}")
            for name, part in summary["parts"].items()
        ],
    )
    raise SystemExit(any(part["outcome"] != "done" for part in summary["parts"].values()))


if __name__ == "__main__":
    main()
