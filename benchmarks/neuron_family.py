"""The whole neuron family and every surrogate on the CPU, forward and backward, as a multiple of three copies.

Not one lucky case: each neuron below in float32, (4, 16, 64, 32, 32), with the loops that "auto" takes.
"""

import statistics

import torch
from common import arguments, differentiated, machine, table, take_turns, three_copies
from record import ratio, write

import sbp_torch
from sbp_core import LIFSpec, presets
from sbp_core.specs.surrogates import FAMILIES

SPECS = {f"LIF, {family}": LIFSpec(surrogate=family) for family in FAMILIES} | {
    "LIF, detached reset": LIFSpec(detach_reset=True),
    "LIF, soft reset": LIFSpec(reset="soft"),
    "LIF, reset at the next step": LIFSpec(reset_timing="next"),
    "LIF, output one step later": LIFSpec(output_delay=1),
    "integrate and fire": LIFSpec.integrate_and_fire(),
    "PLIF (learnt decay)": LIFSpec.parametric(),
    "current-based (synapse)": LIFSpec.current_based(),
    "read-out": LIFSpec.leaky_integrator(),
    "SpikingJelly's LIF (sigmoid)": presets.spikingjelly_lif(),
    "snnTorch's Leaky (arctan)": presets.snntorch_leaky(beta=0.9),
    "snnTorch's Synaptic": presets.snntorch_synaptic(alpha=0.8, beta=0.9),
    "Norse's LIF": presets.norse_lif(),
    "spyx's LIF": presets.spyx_lif(beta=0.8),
}


def main():
    options = arguments(__doc__, "neuron_family").parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rounds = options.rounds or (2 if options.quick else 9)
    shape = (4, 2 if options.quick else 16, 64, 32, 32)
    torch.manual_seed(0)
    x, cotangent = torch.randn(shape, requires_grad=True), torch.randn(shape)
    runs = {"three copies": three_copies(x)}
    for name, spec in SPECS.items():
        runs[name] = differentiated(sbp_torch.LIF(spec), x, cotangent)
    times = take_turns(runs, rounds)
    print(f"\nForward + backward, float32, {shape}, {rounds} rounds, {torch.get_num_threads()} threads\n")
    table(
        ("neuron", "of three copies", "median ms"),
        [
            (name, f"{ratio(times, name, 'three copies'):.2f}", f"{1e3 * statistics.median(values):.1f}")
            for name, values in times.items()
        ],
    )
    case = {"shape": shape, "specs": {name: spec.to_dict() for name, spec in SPECS.items()}, "seconds": times}
    write(options.out, machine() | case)


if __name__ == "__main__":
    main()
