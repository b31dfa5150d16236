"""How fast the loader makes CIFAR-10's batches, and whether its workers keep a training step fed.

Crop, flip, AutoAugment and Cutout, batch 128. CIFAR-10's images where ``SBP_DATA`` has them, else random ones of the
same size, which cost as much but for AutoAugment's tables.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from record import RESULTS, write

from sbp_lab.augment import AutoAugment, Crop, Cutout, Flip
from sbp_lab.batches import BatchMaker
from sbp_lab.data import ArraySplit, Source, open_data
from sbp_lab.loader import Loader

BATCH, STEP = 128, 0.050
RECIPE = (Crop(padding=4), Flip(), AutoAugment(), Cutout(size=16))
PARTS = {"nothing": (), "crop": RECIPE[:1], "flip": RECIPE[1:2], "AutoAugment": RECIPE[2:3], "Cutout": RECIPE[3:]}
PARTS["all four"] = RECIPE


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=os.environ.get("SBP_DATA"))
    parser.add_argument("--steps", type=int, default=100, help="batches of each measurement")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "loader.json")
    options = parser.parse_args()
    source, kind = data(options.data_folder)
    print(f"{kind}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    result = {
        "machine": {
            "cores": os.cpu_count(),
            "load before": os.getloadavg()[0],
            "niceness": os.nice(0),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "data": kind,
        "batch": BATCH,
        "step seconds": STEP,
        "processor ms a batch": {name: processor_ms(source, augment) for name, augment in PARTS.items()},
    }
    for name, cost in result["processor ms a batch"].items():
        print(f"{name:12} {cost['least']:6.2f} ms of processor a batch, median {cost['median']:6.2f}", flush=True)
    result["workers"] = {}
    for workers in options.workers:
        found = measure(source, workers, options.steps)
        result["workers"][str(workers)] = found
        print(
            f"{workers} workers: {found['images a second']:8.0f} images/s; first batch after "
            f"{found['first batch seconds']:.1f} s; a step of {STEP * 1e3:.0f} ms waits {found['share waited']:.1%} of "
            f"the time, at most {found['longest wait ms']:.0f} ms; {found['main process ms']:.1f} ms of processor "
            f"a batch in the main process (load {found['load']:.1f})",
            flush=True,
        )
    write(options.out, result)


def data(folder):
    """Return a source of CIFAR-10's sizes and what it is."""
    if folder is not None and Path(folder).exists():
        return open_data("cifar10", Path(folder)), "CIFAR-10's images"
    rng = np.random.default_rng(0)
    splits = [ArraySplit(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n)) for n in (10000, 128)]
    return (
        Source(
            name="random", train=splits[0], test=splits[1], class_names=tuple("abcdefghij"), size=(32, 32), channels=3
        ),
        "random images",
    )


def processor_ms(source, augment, batches=60):
    """Return the processor's time for a batch, the least and the median: the least is nearest to a quiet machine's."""
    make = BatchMaker(source, training=True, batch_size=BATCH, seed=0, augment=augment)
    make(0, 0)
    times = []
    for step in range(1, batches + 1):
        start = time.process_time()
        make(0, step % make.steps)
        times.append(time.process_time() - start)
    return {"least": min(times) * 1e3, "median": statistics.median(times) * 1e3}


def measure(source, workers, steps):
    """Return how fast batches come, and how long one who takes a batch every STEP seconds waits for it."""
    with Loader(source, batch_size=BATCH, seed=0, augment=RECIPE, workers=workers) as loader:
        batches = endless(loader)
        start = time.perf_counter()
        next(batches)
        first = time.perf_counter() - start
        # what is ready already is not what they can sustain
        for _ in range(8 * workers):
            next(batches)
        start = time.perf_counter()
        for _ in range(steps):
            next(batches)
        rate = steps * BATCH / (time.perf_counter() - start)
        waits = []
        start, here = time.perf_counter(), time.process_time()
        for _ in range(steps):
            asked = time.perf_counter()
            next(batches)
            waits.append(time.perf_counter() - asked)
            time.sleep(STEP)
        total, here = time.perf_counter() - start, time.process_time() - here
    return {
        "main process ms": here / steps * 1e3,
        "images a second": rate,
        "first batch seconds": first,
        "share waited": sum(waits) / total,
        "median wait ms": statistics.median(waits) * 1e3,
        "longest wait ms": max(waits) * 1e3,
        "load": os.getloadavg()[0],
    }


def endless(loader):
    number = 0
    while True:
        yield from loader.epoch(number)
        number += 1


if __name__ == "__main__":
    main()
