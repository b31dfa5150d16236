"""What a run computes in, and with: it learns, stays finite, and goes on where it was."""

import shutil

import numpy as np
import pytest

from sbp_lab.data import ArraySplit, Source
from sbp_lab.record import Run
from sbp_lab.trainers import state
from sbp_lab.training import CheckpointWritten, checkpoint
from tests.lab.test_lab_checkpoint import run, same


def bright(count, seed):
    """Return images that are the brighter the higher their class."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).integers(0, 60, (count, 4, 4, 1))
    return ArraySplit((noise + 90 * labels[:, None, None, None]).astype(np.uint8), labels)


SOURCE = Source(name="toy", train=bright(60, 0), test=bright(30, 1), class_names=("a", "b", "c"), size=(4, 4))


@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        ("torch", {"precision": "bfloat16"}),
        ("torch", {"precision": "float16"}),
        ("torch", {"compile": True}),
        ("jax", {"precision": "float16"}),
        ("tf", {"precision": "float16"}),
    ],
    ids=["torch bf16", "torch fp16", "torch compiled", "jax fp16", "tf fp16"],
)
def test_a_run_learns_stays_finite_and_goes_on_bit_for_bit(backend, changes, tmp_path):
    given = {"source": SOURCE, "make_trainer": None}
    fields = {"backend": backend, "net": "convnet", "width": 4, "learning_rate": 0.05} | changes

    def on_event(event):
        # as a copy of the disk at that moment, which is what a run that is killed leaves
        if isinstance(event, CheckpointWritten) and event.step == 13:
            shutil.copytree(tmp_path / "whole", tmp_path / "resumed")

    run(tmp_path / "whole", fields, on_event=on_event, checkpoint_every=3, **given)
    run(tmp_path / "resumed", fields, resume=True, **given)
    same(tmp_path / "whole", tmp_path / "resumed")

    epochs = Run.read(tmp_path / "whole").epochs
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    assert epochs[-1].accuracy > 0.6
    arrays = checkpoint.read(tmp_path / "whole" / checkpoint.CURRENT).arrays
    assert all(np.isfinite(array).all() for array in arrays.values())
    if changes.get("precision") == "float16":
        # the loss's factor and how long it has been good are kept, or a resumed run would scale otherwise
        assert arrays[state.GOOD_STEPS] > 0
        assert arrays[state.SCALE] >= 1.0
