"""What a look of the doctor costs while a network trains, in training steps, side by side in each framework.

A look at every 200 steps that costs as much as two of them costs 1 % of the training. Processor time of the whole
process, so that other programs on the machine do not count. ``python benchmarks/watch_cost.py --backend jax``,
``KERAS_BACKEND=torch python benchmarks/watch_cost.py --backend keras``.
"""

import argparse
import os
import statistics
import time

import numpy as np
from record import RESULTS, ratio, write

from sbp_core.signal import EVERY
from sbp_lab import networks, trainers
from sbp_lab.environment import machine, versions
from sbp_lab.trainers import TrainerOptions
from sbp_lab.training.watching import PARTS

CASES = {
    "resnet18 of width 16, 16x16, T = 4": {"name": "resnet18", "width": 16, "size": (16, 16), "time_steps": 4},
    "resnet34 of width 8, 8x8, T = 2": {"name": "resnet34", "width": 8, "size": (8, 8), "time_steps": 2},
}


def measured(backend, fields, batch, rounds):
    """Return processor seconds of a step and of a look, round by round, and of the first look."""
    spec = networks.build(num_classes=10, in_channels=3, **fields)
    trainer = trainers.load(backend).make_trainer(spec, None, TrainerOptions(taps=spec.default_taps))
    random = np.random.default_rng(0)
    images = random.normal(size=(batch, *fields["size"], 3)).astype(np.float32)
    labels = random.integers(0, 10, batch)
    parts = list(zip(np.split(images, PARTS), np.split(labels, PARTS), strict=True))
    times, first = {"step": [], "look": []}, 0.0
    for number in range(1, rounds + 3):
        began = time.process_time()
        trainer.train_step(images, labels, 0.25, 0.01, number)
        between = time.process_time()
        trainer.diagnose(parts, 0.25)
        look = time.process_time() - between
        first = look if number == 1 else first
        # the first two compile and allocate
        if number > 2:
            times["step"].append(between - began)
            times["look"].append(look)
    return times, first


def main():
    """Print and write a line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=trainers.TRAINERS, default="torch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    given = parser.parse_args()
    found = {}
    for name, fields in CASES.items():
        times, first = measured(given.backend, fields, given.batch, given.rounds)
        steps = ratio(times, "look", "step")
        found[name] = times | {"first look": first, "look in steps": steps, "share at the default": steps / EVERY}
        print(
            f"{given.backend}, {name}: a step {1e3 * statistics.median(times['step']):.0f} ms, "
            f"a look {steps:.2f} steps, the first {first:.1f} s, "
            f"{100 * steps / EVERY:.2f} % of the training at one every {EVERY}",
            flush=True,
        )
    under = f"_{os.environ.get('KERAS_BACKEND', 'tensorflow')}" if given.backend == "keras" else ""
    ran = given.backend + under
    content = {"backend": ran, "batch": given.batch, "cases": found}
    write(RESULTS / f"watch_cost_{ran}.json", content | {"versions": versions(), "machine": machine()})


if __name__ == "__main__":
    main()
