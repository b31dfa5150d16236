"""One LIF layer, forward and backward on the CPU, as a multiple of three copies of its tensor.

The paper's neuron (hard reset, rectangle of width 1) in float32. Three copies are the memory traffic of a layer that
writes its output and its gradient and keeps one tensor. Contenders take turns within each round; the figures are
medians of their ratios to the copies of the same round. Peers take part where they are installed.
"""

import statistics

import torch
from common import arguments, differentiated, machine, table, take_turns, three_copies
from peer_neurons import installed
from record import ratio, write

import sbp_torch
from sbp_core import LIFSpec

SPEC = LIFSpec()


def contenders(x, cotangent, compiled):
    """Return what takes part."""
    runs = {"three copies": three_copies(x)}
    ours = {
        "sbp": sbp_torch.LIF(SPEC),
        "sbp, detached reset, packed": sbp_torch.LIF(SPEC.replace(detach_reset=True), implementation="packed"),
        "sbp, tensor operations": sbp_torch.LIF(SPEC, implementation="loop"),
    }
    if compiled:
        ours["sbp, torch.compile"] = torch.compile(sbp_torch.LIF(SPEC), fullgraph=True, dynamic=False)
    for name, forward in (ours | installed()).items():
        runs[name] = differentiated(forward, x, cotangent)
    return runs


def main():
    parser = arguments(__doc__, "neuron_cpu")
    parser.add_argument("--batch", type=int, action="append", help="batch sizes; 16 and 64 unless given")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rounds = options.rounds or (2 if options.quick else 9)
    result = machine() | {"spec": SPEC.to_dict(), "cases": []}
    for batch in options.batch or ([2] if options.quick else [16, 64]):
        shape = (4, batch, 64, 32, 32)
        torch.manual_seed(0)
        x, cotangent = torch.randn(shape, requires_grad=True), torch.randn(shape)
        times = take_turns(contenders(x, cotangent, not options.quick), rounds)
        print(f"\nLIF forward + backward, float32, {shape}, {rounds} rounds, {torch.get_num_threads()} threads\n")
        rows = [
            (name, f"{ratio(times, name, 'three copies'):.2f}", f"{1e3 * statistics.median(values):.1f}")
            for name, values in times.items()
        ]
        table(("", "of three copies", "median ms"), rows)
        result["cases"].append({"shape": shape, "seconds": times})
    write(options.out, result)


if __name__ == "__main__":
    main()
