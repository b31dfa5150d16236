"""Whether the doctor's early figure tells the end: agreement of gradients after 60 steps against the last accuracy.

``PYTHONPATH=. python benchmarks/early_agreement.py [MINUTES]`` prints a line a run and the table of docs/doctor.md;
``plots.py`` draws docs/images/early_agreement.png. Runs that benchmarks/results/early_agreement.json has are not made
again.
"""

import json
import os
import sys
import time

import numpy as np
import torch
from plots import EARLY_FIGURES, rank_correlation, told_apart
from record import RESULTS, write
from stepping import accuracy, stepped

from sbp_core import ArcTan, LIFSpec, Rectangle, Triangle
from sbp_core.presets import authors_lif
from sbp_core.signal import at_identity
from sbp_lab.data import open_data
from sbp_lab.doctor import Case, examine, start
from sbp_lab.recipe import Recipe
from sbp_lab.starts import first_weights

FILE = RESULTS / "early_agreement.json"
EARLY, STEPS, BATCHES = 60, 200, 8
SEEDS = (0, 1)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 68: (6, 8, 12, 7)}
SIZES = {"digits": None, "fashion_mnist": (14, 14)}
CALIBRATED = "rectangle 2, calibrated"
NEURONS = {
    "rectangle 1": LIFSpec(),
    "rectangle 2": LIFSpec(surrogate=Rectangle(width=2.0)),
    "triangle": LIFSpec(surrogate=Triangle()),
    "arctan": LIFSpec(surrogate=ArcTan()),
    "authors'": authors_lif(),
    CALIBRATED: LIFSpec(surrogate=Rectangle(width=2.0)),
}


def run(data, layers, name, seed):
    """Train a ResNet, from the usual start unless its name says: agreement after 60 steps, and the last accuracy."""
    source = open_data(data, os.environ.get("SBP_DATA"))
    shown = {"data": data, "size": SIZES[data], "time_steps": 2, "batch_size": 32}
    recipe, spec, _ = start(Recipe(net="resnet18", width=4, method="vanilla", seed=seed, **shown), source)
    recipe = recipe.replace(neuron=NEURONS[name], start="calibrated" if name == CALIBRATED else "default")
    spec = spec.replace(depths=DEPTHS[layers], neuron=NEURONS[name])
    spec = at_identity(spec) if name == CALIBRATED else spec
    case = Case(recipe, spec, first_weights(recipe, spec, source))
    losses, row = [], {"data": data, "layers": layers, "neuron": name, "seed": seed}
    for step, loss, trainer in stepped(case, source, STEPS):
        losses.append(loss)
        if step == EARLY:
            found = examine(case, source, batches=BATCHES, state=trainer.weights())
            row["agreement"] = [weights.agreement for weights in found.weights]
            row["noise"] = float(np.mean([weights.is_noise for weights in found.weights]))
            row["kept"] = found.neurons[-1].kept
            row["gradient_ratio"] = found.weights[0].gradient / found.weights[-1].gradient
            row["early_accuracy"] = accuracy(case, source, trainer)
    return row | {"loss": float(np.mean(losses[-20:])), "accuracy": accuracy(case, source, trainer)}


def main():
    """Make the runs that are missing, one after the other, while there is time."""
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    rows = json.loads(FILE.read_text()) if FILE.is_file() else []
    cases = [(data, layers, name, seed) for seed in SEEDS for layers in DEPTHS for data in SIZES for name in NEURONS]
    for case in cases:
        if time.monotonic() > until or any(case == tuple(row.values())[:4] for row in rows):
            continue
        row = run(*case)
        rows.append(row)
        write(FILE, rows)
        early, last = (f"{100 * row[each]:.1f} %" for each in ("early_accuracy", "accuracy"))
        figures = f"agreement {np.mean(row['agreement']):.3f}, kept {row['kept']:.2f}"
        print(*case, f"{figures}; after {EARLY} steps {early}, after {STEPS} {last}", sep=", ", flush=True)
    print(table(rows))


def table(rows):
    """Return how well each early figure tells the end, and the same without calibrated starts."""
    lines = ["| after 60 steps | pairs told apart, digits | rank | pairs, Fashion-MNIST | rank |", f"|{'---|' * 5}"]
    for name, value in EARLY_FIGURES.items():
        cells = [name.replace("\n", " ")]
        for data in SIZES:
            found = [row for row in rows if row["data"] == data]
            usual = [row for row in found if row["neuron"] != CALIBRATED]
            cells.append(" / ".join(f"{100 * told_apart(some, value):.0f} %" for some in (found, usual)))
            cells.append(" / ".join(f"{rank_correlation(some, value):.2f}" for some in (found, usual)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
