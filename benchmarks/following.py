"""What docs/doctor.md says of a coefficient that follows the signal: a ResNet-34 on digits, a row a law."""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from sbp_core import Evolutionary, Following, LIFSpec, LossSpec, Rectangle
from sbp_lab.data import open_data
from sbp_lab.recipe import Recipe
from sbp_lab.training import StepDone, train

LAWS = {
    "vanilla": None,
    "falls to 0 (the paper's law)": Evolutionary(initial=1.0),
    "follows the agreement, and falls to 0": Following(initial=1.0, every=20),
    "follows the agreement alone": Following(initial=1.0, every=20, fade=False),
}


def main():
    """Print a line a law and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--width", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    digits = open_data("digits")
    for seed in range(given.seeds):
        for name, law in LAWS.items():
            recipe = Recipe(
                net="resnet34",
                width=given.width,
                time_steps=2,
                batch_size=64,
                epochs=given.epochs,
                method="vanilla" if law is None else "evolutionary",
                coefficient=law,
                loss=LossSpec(combine="losses"),
                neuron=LIFSpec(surrogate=Rectangle(width=2.0)),
                seed=seed,
            )
            used = []
            with tempfile.TemporaryDirectory() as folder:

                def hear(event, used=used):
                    if isinstance(event, StepDone):
                        used.append(event.coefficient)

                run = train(recipe, Path(folder) / "run", source=digits, on_event=hear)
            tenth = [round(used[int(share * (len(used) - 1))], 3) for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
            accuracies = [round(100 * epoch.accuracy, 1) for epoch in run.epochs]
            print(json.dumps({"seed": seed, "law": name, "accuracy": accuracies, "coefficient": tenth}), flush=True)


if __name__ == "__main__":
    main()
