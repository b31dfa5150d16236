"""Several processes that train one network: what they give is what one process gives."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sbp_lab.augment import Flip, MixUp
from sbp_lab.optimizers import SGD
from sbp_lab.record import Run
from sbp_lab.training import Interrupted, LeftAloneError, StepDone, checkpoint, train
from tests.lab.test_lab_checkpoint import recipe, same, source

ROOT = Path(__file__).parents[2]

#: Batch norm, neurons whose start follows, a running mean, samples mixed over the parts of a batch.
FIELDS = {"net": "convnet", "width": 4, "optimizer": SGD(momentum=0.9), "clip_norm": 0.5, "learning_rate": 0.05}
FIELDS |= {"method": "evolutionary+mp-init", "augment": (Flip(), MixUp())}

SCRIPT = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
from tests.lab.test_lab_processes import in_each_process
in_each_process(rank, folder)
os._exit(0)
"""


def given():
    """Return data whose last test batch, of one sample, only one process has."""
    return source(24, 7)


def in_each_process(rank, folder):
    """Train whole; train, be stopped, and go on; at last lose the other process."""
    import signal

    from sbp_lab.trainers.torch import TorchTrainer

    train(recipe(**FIELDS), folder / "whole", source=given())

    made = TorchTrainer.train_step

    def stopped(self, images, labels, coefficient, learning_rate, step):
        if rank == 1 and step == 7:
            signal.raise_signal(signal.SIGTERM)
        return made(self, images, labels, coefficient, learning_rate, step)

    TorchTrainer.train_step = stopped
    with pytest.raises(Interrupted, match="stopped after step 7"):
        train(recipe(**FIELDS), folder / "resumed", source=given())
    TorchTrainer.train_step = made
    train(recipe(**FIELDS), folder / "resumed", source=given(), resume=True)
    if rank == 1:
        return
    with pytest.raises(LeftAloneError, match="another of the 2 processes has ended"):
        train(recipe(**FIELDS), folder / "alone", source=given())
    (folder / "done").touch()


def test_two_processes_train_as_one_does_stop_together_and_go_on_bit_for_bit(tmp_path):
    environment = os.environ | {"WORLD_SIZE": "2", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    both = [
        subprocess.Popen(command, env=environment | {"RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(told)[-3000:]
    assert (tmp_path / "done").exists()
    same(tmp_path / "whole", tmp_path / "resumed")

    losses = []
    one = tmp_path / "one"
    train(recipe(**FIELDS), one, source=given(), on_event=lambda e: losses.append(e))
    steps = sum(isinstance(event, StepDone) for event in losses)
    assert steps == 12
    whole, other = (Run.read(folder) for folder in (one, tmp_path / "whole"))
    for a, b in zip(whole.epochs, other.epochs, strict=True):
        assert (a.accuracy, a.train_accuracy) == (b.accuracy, b.train_accuracy)
        np.testing.assert_allclose([b.loss, b.gradient, b.firing_rate], [a.loss, a.gradient, a.firing_rate], rtol=1e-5)
    a, b = (checkpoint.read(folder / checkpoint.CURRENT).arrays for folder in (one, tmp_path / "whole"))
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_several_processes_are_refused_before_anything_is_written_where_a_framework_cannot(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"backend must be one of 'torch' with several processes \(WORLD_SIZE=2\)"):
        train(recipe(backend="jax"), tmp_path / "run", source=source())
    with pytest.raises(ValueError, match="RANK must be an integer in the environment where several processes train"):
        train(recipe(), tmp_path / "run", source=source())
    assert not (tmp_path / "run").exists()
