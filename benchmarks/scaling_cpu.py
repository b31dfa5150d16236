"""How the cost of a LIF layer grows with the steps, the batch and the neurons, on the CPU, against three copies.

One of the three grows while the other two stay. A line of slope 1 in the plot is a cost in proportion to the work.
Peers take part up to four million elements: beyond, they take seconds.
"""

import statistics

import torch
from common import arguments, differentiated, machine, table, take_turns, three_copies
from peer_neurons import installed
from record import write

import sbp_torch

MOST_FOR_PEERS = 1 << 22
FIXED = {"steps": 16, "batch": 16, "neurons": 4096}
GROWING = {
    "steps": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "batch": (1, 4, 16, 64, 256),
    "neurons": (256, 1024, 4096, 16384, 65536),
}
QUICK = {"steps": (1, 8), "batch": (1, 4), "neurons": (64, 256)}


def main():
    options = arguments(__doc__, "scaling_cpu").parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rounds = options.rounds or (2 if options.quick else 7)
    result = machine() | {"fixed": FIXED, "cases": []}
    for what, values in (QUICK if options.quick else GROWING).items():
        rows, names = [], ["three copies", "sbp", *installed()]
        for value in values:
            sizes = FIXED | {what: value}
            shape = tuple(sizes.values())
            x, cotangent = torch.randn(shape, requires_grad=True), torch.randn(shape)
            runs = {"three copies": three_copies(x), "sbp": differentiated(sbp_torch.LIF(), x, cotangent)}
            peers = installed() if x.numel() <= MOST_FOR_PEERS else {}
            runs |= {name: differentiated(forward, x, cotangent) for name, forward in peers.items()}
            times = take_turns(runs, rounds)
            result["cases"].append({"growing": what, "value": value, "shape": shape, "seconds": times})
            each = {name: f"{1e9 * statistics.median(seconds) / x.numel():.2f}" for name, seconds in times.items()}
            rows.append((str(value), *(each.get(name, "") for name in names)))
        print(f"\nNanoseconds an element, forward + backward, as {what} grow; else {FIXED}\n")
        table((what, *names), rows)
    write(options.out, result)


if __name__ == "__main__":
    main()
