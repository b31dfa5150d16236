"""What shortcuts cost: a training step and an evaluation of sbp's ResNet-18, with and without them, on the CPU.

python benchmarks/shortcut_torch.py [--width 16 --rounds 9]

Contenders take turns within each round; the figures are medians of their ratios to the plain network of the same round,
once by the clock and once by the processor's time, which other work on the machine disturbs less.
In evaluation the branches are not run, and the stripped network is the plain one.
"""

import argparse
import importlib.metadata
import platform
import statistics
import time
from pathlib import Path

import torch
from record import write
from torch.nn.functional import cross_entropy

import sbp_torch

TAPS = ("layer1", "layer2", "layer3")


def network(arguments):
    torch.manual_seed(0)
    widths = tuple(arguments.width * factor for factor in (1, 2, 4, 8))
    return sbp_torch.resnet18(num_classes=10, time_steps=arguments.time_steps, widths=widths)


def step(model, images, labels):
    """Return a whole training step: forward, loss, backward, optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run():
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


def evaluation(model, images):
    model.eval()

    def run():
        with torch.no_grad():
            model(images)

    return run


def contenders(arguments, images, labels):
    def wrapped():
        model = sbp_torch.Shortcut(network(arguments), TAPS, 10)
        model.set_coefficient(0.25)
        return model

    def losses():
        model, loss = sbp_torch.Shortcut(network(arguments), TAPS, 10, "losses"), sbp_torch.ShortcutLoss()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def run():
            optimizer.zero_grad()
            loss(model(images), labels, 0.25).backward()
            optimizer.step()

        return run

    return {
        "training step": {
            "plain": step(network(arguments), images, labels),
            "shortcut": step(wrapped(), images, labels),
            "shortcut, losses apart": losses(),
        },
        "evaluation": {
            "plain": evaluation(network(arguments), images),
            "shortcut": evaluation(wrapped(), images),
            "stripped": evaluation(wrapped().strip(), images),
        },
    }


def measure(runs, rounds):
    """Return each contender's seconds (clock, processor), round by round; every second round in the opposite order."""
    for run in runs.values():
        run()
    times = {name: [] for name in runs}
    for index in range(rounds):
        for name in list(runs) if index % 2 == 0 else reversed(runs):
            clock, processor = time.perf_counter(), time.process_time()
            runs[name]()
            times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--time-steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shortcut_torch.json"))
    arguments = parser.parse_args()
    torch.manual_seed(1)
    images = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    labels = torch.randint(10, (arguments.batch,))
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    result = {
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": importlib.metadata.version("torch")},
        "settings": settings,
        "seconds": {},
        "ratios": {},
    }
    print(f"sbp ResNet-18, {', '.join(f'{name} {value}' for name, value in settings.items())}, branches at {TAPS}\n")
    print("| | of plain, clock | quartiles | of plain, processor | quartiles | median ms |\n|---|---|---|---|---|---|")
    for phase, runs in contenders(arguments, images, labels).items():
        times = measure(runs, arguments.rounds)
        result["seconds"][phase], result["ratios"][phase] = times, {}
        for name, values in times.items():
            cells = []
            for kind in (0, 1):
                ratios = [value[kind] / plain[kind] for value, plain in zip(values, times["plain"], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                cells += [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
                result["ratios"][phase].setdefault(name, []).append(middle)
            milliseconds = 1e3 * statistics.median(value[0] for value in values)
            print(f"| {phase}, {name} | {' | '.join(cells)} | {milliseconds:.1f} |", flush=True)
    write(arguments.out, result)


if __name__ == "__main__":
    main()
