"""What docs/doctor.md says of deep networks and where they start: each trained from every start, on digits.

``PYTHONPATH=. python benchmarks/deep_starts.py``. A run that benchmarks/results/deep_starts.json has is not made again;
``plots.py`` draws docs/images/deep_starts.png of it.
"""

import json
import time

import torch
from record import RESULTS, write
from stepping import accuracy, stepped

from sbp_lab.data import open_data
from sbp_lab.doctor import examine, start
from sbp_lab.networks import NETWORKS
from sbp_lab.recipe import Recipe

FILE = RESULTS / "deep_starts.json"
#: Network: time steps, and steps of training.
NETS = {"resnet68": (2, 100), "vgg25": (2, 150), "tutorial": (4, 150)}
#: Start and seed; the identity is the calibrated start without its scaling.
STARTS = (("default", 0), ("calibrated", 0), ("identity", 0), ("default", 1), ("calibrated", 1))
EVERY = 10


def run(net, name, seed):
    """Train a network from a start; losses of all steps, accuracy after every tenth."""
    time_steps, steps = NETS[net]
    recipe = Recipe(
        net=net if net in NETWORKS else f"benchmarks.deep_nets:{net}",
        width=8 if net in NETWORKS else None,
        time_steps=time_steps,
        batch_size=64,
        method="vanilla",
        start=name,
        seed=seed,
    )
    digits = open_data("digits")
    began = time.perf_counter()
    case = start(recipe, digits)
    found = examine(case, digits, batches=2)
    losses, accuracies = [], []
    for step, loss, trainer in stepped(case, digits, steps):
        losses.append(loss)
        if step % EVERY == 0:
            accuracies.append(accuracy(case, digits, trainer))
    return {
        "net": net,
        "start": name,
        "seed": seed,
        "rates": [float(sum(neuron.rate) / len(neuron.rate)) for neuron in found.neurons],
        "kept": [neuron.kept for neuron in found.neurons],
        "losses": losses,
        "accuracies": accuracies,
        "seconds": time.perf_counter() - began,
    }


def main():
    """Make the runs that are missing, one after the other."""
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text())["runs"] if FILE.is_file() else []
    for net in NETS:
        for name, seed in STARTS:
            if any((row["net"], row["start"], row["seed"]) == (net, name, seed) for row in rows):
                continue
            rows.append(run(net, name, seed))
            write(FILE, {"every": EVERY, "runs": rows})
            row = rows[-1]
            print(
                f"{net}, {name}, seed {seed}: after {len(row['losses'])} steps loss "
                f"{row['losses'][-1]:.2f}, accuracy {100 * row['accuracies'][-1]:.1f} %; {row['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
