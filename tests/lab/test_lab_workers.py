import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sbp_lab import loader as loader_module
from sbp_lab.augment import (
    CutMix,
    MixUp,
)
from sbp_lab.data.source import Source
from sbp_lab.loader import Loader, SampleError
from tests.lab.samples import ALL, Files, same, source

ROOT = Path(__file__).parents[2]


def test_workers_make_the_same_batches_in_every_epoch_and_end_with_the_loader():
    data = source(train=80)
    augment = (*ALL, MixUp(), CutMix(probability=0.5))
    alone = Loader(data, batch_size=8, seed=5, augment=augment)
    with Loader(data, batch_size=8, seed=5, augment=augment, workers=2) as loader:
        same(loader.epoch(1, start=3), list(alone.epoch(1))[3:])
        same(loader.epoch(2), alone.epoch(2))
        processes = workers()
        # the test images are in memory
        same(loader.test(), alone.test())
        assert workers() == processes
        assert len(processes) == 2
    assert end_soon(processes)


@pytest.mark.parametrize("count", [0, 1], ids=["no worker", "one worker"])
def test_a_sample_that_cannot_be_read_is_named_and_its_error_comes_through(count, monkeypatch):
    # a worker imports the tests' own split
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    data = source(train=8)
    broken = Files(data.train, broken=(6,))
    broken_source = Source(
        name="toy", train=data.train, test=broken, class_names=data.class_names, size=(12, 10), channels=3
    )
    with Loader(broken_source, batch_size=4, seed=0, workers=count) as loader:
        batches = loader.test()
        same([next(batches)], [next(Loader(broken_source, batch_size=4, seed=0).test())])
        file = broken.files[6]
        message = rf"toy: test sample 6 \({file}\): OSError: the file ends after 12 bytes of 3072"
        with pytest.raises(SampleError, match=message) as raised:
            next(batches)
    if count:
        assert any("in __getitem__" in note for note in raised.value.__notes__)
    else:
        assert isinstance(raised.value.__cause__, OSError)


def test_no_room_in_shared_memory_is_said_before_a_worker_starts(monkeypatch):
    from sbp_lab import workers

    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: Usage(1 << 20))
    monkeypatch.setattr(workers, "SHARED_MEMORY", Path.cwd())
    with pytest.raises(RuntimeError, match=r"2 workers with batches of 10 MB need 80 MB of shared memory, .* has 1 MB"):
        workers._ahead(10 << 20, 2)
    assert workers._ahead(1 << 16, 1) == workers.AHEAD
    assert workers._ahead(1 << 17, 2) == 1


def test_a_script_that_its_own_workers_would_run_again_is_told_how_to_be_written(monkeypatch):
    # what multiprocessing sets in a worker while it runs the script
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match=r'under `if __name__ == "__main__":`'):
        next(Loader(source(), batch_size=8, seed=0, workers=1).epoch(0))


def test_workers_without_grain_are_answered_with_what_to_install(monkeypatch):
    monkeypatch.setattr(loader_module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"grain, which runs workers, is not installed; .*\[lab\]"):
        Loader(source(), batch_size=8, seed=0, workers=1)
    Loader(source(), batch_size=8, seed=0)


@dataclass
class Usage:
    free: int


SMALL = """
import numpy as np
from sbp_lab.data.source import ArraySplit, Source
from sbp_lab.loader import Loader

split = ArraySplit(np.zeros((80, 4, 4, 1), np.uint8), np.zeros(80, np.int64))
source = Source(name="small", train=split, test=split, class_names=("a",), size=(4, 4))
"""


SCRIPT = """
if __name__ == "__main__":
    import signal
    # a parent may have told its children to ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    loader = Loader(source, batch_size=8, seed=0, workers=1)
    for number in range(10**6):
        for _ in loader.epoch(number):
            if number == 0:
                print("ready", flush=True)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_no_process_is_left_however_the_main_one_ends(end, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SMALL + SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        members = workers(process.pid)
        assert len(members) == 1
        if end == signal.SIGKILL:
            process.kill()
        else:
            # as a terminal does, and torchrun: to the whole group
            os.killpg(process.pid, end)
        _, errors = process.communicate(timeout=60)
        if end != signal.SIGKILL:
            # the main process alone answers, the first time; every batch on its way is freed
            assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1
            assert "leaked" not in errors
        assert end_soon(members)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def workers(parent=None):
    """Return the processes that ``parent``, or this one, has spawned."""
    found = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in found.splitlines()]
    return {
        int(pid) for pid, above, command in rows if int(above) == (parent or os.getpid()) and "spawn_main" in command
    }


def end_soon(processes):
    """Return whether all processes end within half a minute; one that waits to be asked how it ended has ended."""

    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    deadline = time.monotonic() + 30
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, processes))


def test_a_loader_without_workers_imports_no_grain_and_starts_no_process():
    code = SMALL + (
        "next(Loader(source, batch_size=8, seed=0).epoch(0))\n"
        "import json, multiprocessing, sys\n"
        "heavy = {name.partition('.')[0] for name in sys.modules} & {'grain', 'jax', 'torch', 'tensorflow', 'keras'}\n"
        "print(json.dumps([sorted(heavy), len(multiprocessing.active_children())]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(found.stdout) == [[], 0]
