"""Kills a training by SIGKILL at random moments, resumes it each time, and compares it with an unbroken one bit by bit.

    python benchmarks/kill_and_resume.py --backend torch --kills 10

Each session is a process of its own, forked before the framework computes anything, and killed after a random time from
its first step on, or from its start; so kills fall into steps, tests, writing, compiling. What is compared: every array
of the last checkpoint (weights, branches, optimiser, running mean), the saved weights, and the curve.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def small(num_classes, in_channels, size, time_steps):
    """A VGG with dropout, whose masks must be the same after a resume."""
    from sbp_core.specs.networks.vgg import VGGSpec

    return VGGSpec(
        stages=((4,), (6,)),
        hidden=(8,),
        dropout=0.25,
        num_classes=num_classes,
        in_channels=in_channels,
        size=size,
        time_steps=time_steps,
    )


def recipe(backend, epochs):
    from sbp_lab.augment import Crop
    from sbp_lab.recipe import Recipe

    return Recipe(
        backend=backend,
        net="kill_and_resume:small",
        time_steps=2,
        epochs=epochs,
        batch_size=128,
        augment=(Crop(padding=1),),
        clip_norm=1.0,
        accumulate=2,
        ema=0.9,
        seed=3,
    )


def session(backend, folder, epochs, every, told):
    """One process's part of the run; writes a byte at each thing that happens."""
    from sbp_lab.data import open_data
    from sbp_lab.training import EpochDone, StepDone, train

    def tell(event):
        if isinstance(event, StepDone):
            os.write(told, b"s")
        elif isinstance(event, EpochDone):
            os.write(told, b"e")

    made = recipe(backend, epochs)
    train(made, folder, source=open_data("digits"), resume=True, checkpoint_every=every, on_event=tell)


def forked(*arguments):
    """Run a session in a fork; return its process and what it tells."""
    seen, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(seen)
            session(*arguments, told)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    os.close(told)
    os.set_blocking(seen, False)
    return child, seen


def ended(child):
    done, status = os.waitpid(child, os.WNOHANG)
    return None if done == 0 else os.waitstatus_to_exitcode(status)


def unbroken(backend, folder, epochs):
    """Run it whole; return the seconds to the first step, and from there."""
    began = time.perf_counter()
    child, seen = forked(backend, folder, epochs, None)
    first = None
    while (code := ended(child)) is None:
        if first is None:
            with suppress(BlockingIOError):
                first = time.perf_counter() if os.read(seen, 1) else None
        time.sleep(0.005)
    os.close(seen)
    if code != 0:
        raise SystemExit(f"the unbroken run of {backend} failed")
    return first - began, time.perf_counter() - first


def broken(backend, folder, epochs, kills, rng, start, rest, every):
    """Run it with kills; return where they fell."""
    fell = Counter()
    while True:
        child, seen = forked(backend, folder, epochs, every)
        # one in five at any moment of the start, the others from the first step on
        at_start = rng.random() < 0.2
        told, first, began = b"", None, time.perf_counter()
        wait = rng.uniform(0.0, start) if at_start else rng.uniform(0.0, 1.5 * rest / kills)
        while (code := ended(child)) is None:
            with suppress(BlockingIOError):
                told += os.read(seen, 1000)
            now = time.perf_counter()
            if first is None and told:
                first = now
            origin = began if at_start else first
            if sum(fell.values()) < kills and origin is not None and now - origin >= wait:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.001)
        os.close(seen)
        if code == 0:
            return fell
        if code != -signal.SIGKILL:
            raise SystemExit(f"a session of {backend} failed")
        half = any(folder.glob(".checkpoint*")) if folder.is_dir() else False
        place = "writing a checkpoint" if half else "before the first step" if not told else "training"
        if told.endswith(b"e"):
            place = "between epochs"
        fell[place] += 1


def differences(one, other):
    """Return what differs between two finished runs."""
    import numpy as np

    from sbp_core import weights
    from sbp_lab.record import Run
    from sbp_lab.training import checkpoint

    found = []
    a, b = (checkpoint.read(folder / checkpoint.CURRENT).arrays for folder in (one, other))
    if set(a) != set(b):
        found.append("names of arrays")
    found += [name for name in a if name in b and not np.array_equal(a[name], b[name])]
    for file in ("last.safetensors", "best.safetensors"):
        a, b = (weights.load(folder / file).weights for folder in (one, other))
        found += [f"{file}: {name}" for name in a if not np.array_equal(a[name], b[name])]
    a, b = (Run.read(folder).to_dict()["epochs"] for folder in (one, other))
    for left, right in zip(a, b, strict=True):
        found += [f"curve: {key}" for key in left if key != "seconds" and left[key] != right[key]]
    rows = (other / "metrics.csv").read_text().splitlines()
    if len(rows) != len(a) + 1:
        found.append(f"metrics.csv has {len(rows) - 1} rows for {len(a)} epochs")
    return found, len(a)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="torch", help="torch, tf, jax, or keras on what KERAS_BACKEND says")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.backend == "jax":
        # a resumed session compiles the same program: take it from here
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp())
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    from sbp_lab import trainers

    trainers.load(arguments.backend)
    work = Path(tempfile.mkdtemp())
    try:
        start, rest = unbroken(arguments.backend, work / "whole", arguments.epochs)
        fell = broken(
            arguments.backend,
            work / "broken",
            arguments.epochs,
            arguments.kills,
            random.Random(arguments.seed),
            start,
            rest,
            arguments.checkpoint_every,
        )
        found, epochs = differences(work / "whole", work / "broken")
        result = {
            "backend": arguments.backend,
            "keras": os.environ.get("KERAS_BACKEND") if arguments.backend == "keras" else None,
            "kills": sum(fell.values()),
            "fell": dict(fell),
            "epochs": epochs,
            "seconds_unbroken": round(start + rest, 1),
            "arrays_that_differ": found,
            "equal": not found,
        }
        print(json.dumps(result))
    finally:
        shutil.rmtree(work)
    return 0 if not found else 1


if __name__ == "__main__":
    sys.exit(main())
