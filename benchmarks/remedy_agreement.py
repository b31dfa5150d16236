"""What each remedy mends in ResNet-34, the gradient's size or its agreement: after 60 steps, by stage.

``PYTHONPATH=. python benchmarks/remedy_agreement.py`` writes benchmarks/results/remedy_agreement.json and the table of
docs/results.md; with ``--table`` it prints what was written.
"""

import json
import sys

import numpy as np
import torch
from record import RESULTS, write
from study import markdown

from sbp_lab import recipes
from sbp_lab.data import open_data
from sbp_lab.doctor import examine, start, train

FILE = RESULTS / "remedy_agreement.json"
METHODS = ("vanilla", "shortcut", "evolutionary", "losses", "calibrated", "sew", "ms", "deep")
STEPS, BATCHES = 60, 8
STAGES = ("layer1", "layer2", "layer3", "layer4")


def run(method):
    """Train and examine; the gradient is of what is trained, branches and all."""
    recipe = recipes.load("digits").with_method(method)
    source = open_data(recipe.data)
    case = start(recipe, source)
    trial, weights = train(case, source, steps=STEPS)
    found = examine(case, source, batches=BATCHES, state=weights, after=STEPS)
    main = {
        layer.path.removeprefix("main."): layer for layer in found.weights if not layer.path.startswith("branches.")
    }
    first, *_, last = main.values()
    by_stage = {
        stage: float(np.mean([layer.agreement for path, layer in main.items() if path.startswith(stage)]))
        for stage in STAGES
    }
    agreement = {"stem": first.agreement} | by_stage
    return {
        "method": method,
        "agreement": agreement,
        "size": first.gradient / last.gradient,
        "kept": found.neurons[-1].kept,
        "accuracy": trial.accuracy,
    }


def table(rows):
    """Return the table as Markdown."""
    head = ["method", "size, first / last", *(f"agreement, {place}" for place in rows[0]["agreement"]), "accuracy, %"]
    lines = []
    for row in rows:
        agreement = [f"{value:.2f}" for value in row["agreement"].values()]
        lines.append([f"`{row['method']}`", f"{row['size']:.2g}", *agreement, f"{100 * row['accuracy']:.0f}"])
    return markdown(head, lines)


def main():
    """Make the runs, or print what was written."""
    torch.set_num_threads(1)
    if "--table" not in sys.argv:
        write(FILE, [run(method) for method in METHODS])
    print(table(json.loads(FILE.read_text())))


if __name__ == "__main__":
    main()
