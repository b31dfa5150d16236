"""What a training step of each method costs beside vanilla's, in turn, in processor time of one thread.

``PYTHONPATH=. python benchmarks/method_step.py``; ResNet-34 of the digits' recipe; median and quartiles of the ratios.
"""

import argparse
import statistics
import time

import torch
from common import machine, take_turns
from record import RESULTS, write
from study import REMEDIES

from sbp_lab import recipes, trainers
from sbp_lab.data import open_data
from sbp_lab.doctor import start
from sbp_lab.loader import Loader
from sbp_lab.training.setup import options_of


def stepper(method, images, labels):
    """Return a training step."""
    recipe = recipes.load("digits").with_method(method)
    case = start(recipe, open_data(recipe.data))
    trainer = trainers.load("torch").make_trainer(case.spec, case.weights, options_of(recipe, case.spec, events=False))
    return lambda: trainer.train_step(images, labels, 0.25 if case.taps else 0.0, 0.01, 1)


def main():
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with Loader(open_data("digits"), batch_size=64, seed=0) as loader:
        images, labels = next(loader.epoch(1))
    times = take_turns(
        {method: stepper(method, images, labels) for method in REMEDIES}, rounds, clock=time.process_time
    )
    ratios = {
        method: statistics.quantiles([a / b for a, b in zip(times[method], times["vanilla"], strict=True)], n=4)
        for method in REMEDIES
    }
    write(RESULTS / "method_step.json", machine() | {"rounds": rounds, "ratios": ratios})
    for method, (low, middle, high) in ratios.items():
        print(f"{method}: {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
