"""A training that is killed, interrupted or cannot write loses nothing that it said it had."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from sbp_core import LIFSpec, weights
from sbp_lab.data import ArraySplit, Source
from sbp_lab.optimizers import SGD
from sbp_lab.recipe import Recipe
from sbp_lab.record import Run
from sbp_lab.trainers import NotFiniteError, StepResult
from sbp_lab.training import (
    CheckpointWritten,
    DamagedError,
    EpochDone,
    Interrupted,
    LockedError,
    Notice,
    StepDone,
    checkpoint,
    train,
)
from sbp_lab.training.folder import check_recipe
from sbp_lab.training.lock import locked


def source(train_count=24, test_count=8, seed=0):
    generator = np.random.default_rng(seed)

    def split(count):
        images = generator.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
        return ArraySplit(images, np.arange(count) % 3)

    return Source(
        name="toy", train=split(train_count), test=split(test_count), class_names=("a", "b", "c"), size=(4, 4)
    )


def recipe(**changes):
    fields = {"backend": "torch", "data": "toy", "net": "mlp", "width": 6, "time_steps": 2, "epochs": 3}
    return Recipe(**fields | {"batch_size": 6, "learning_rate": 0.01, "ema": 0.8} | changes)


class Stub:
    """Stands in for a trainer: its one weight remembers, in order, all that was asked of it."""

    spec = None

    def __init__(self, network, initial, options):
        self.held = np.zeros(2)

    def train_step(self, images, labels, coefficient, learning_rate, step):
        self.held[0] = np.sin(self.held[0] * 3.0 + images.sum() + labels @ np.arange(len(labels)))
        self.held[0] += coefficient + learning_rate * step
        self.held[1] += 1
        return StepResult(float(self.held[0]), 2.0, 1.0, 3.0, 0.5)

    def predict(self, images):
        return np.tile(np.array([0.0, self.held[1], 5.5], np.float32), (len(images), 1))

    def firing_rates(self, images):
        return {"one": 0.2, "two": 0.4}

    def weights(self):
        return {"held": self.held.astype(np.float32)}

    def state(self):
        return {"weights/held": self.held.copy()}

    def load_state(self, state):
        self.held = state["weights/held"].copy()


class Killed(BaseException):
    """Stands in for what gives no time to do anything."""


def run(folder, changes=None, events=None, **options):
    made = {"source": source(), "make_trainer": Stub} | options
    seen = [] if events is None else events
    given = made.pop("on_event", lambda event: None)

    def on_event(event):
        seen.append(event)
        given(event)

    return train(recipe(**changes or {}), folder, on_event=on_event, **made)


def kill_at(step):
    def on_event(event):
        if isinstance(event, StepDone) and event.step == step:
            raise Killed

    return on_event


def same(one, other):
    """Assert that two finished folders hold the same training, to the bit."""
    a, b = (checkpoint.read(folder / checkpoint.CURRENT).arrays for folder in (one, other))
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    a, b = (weights.load(folder / "best.safetensors").weights for folder in (one, other))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    a, b = ([{**epoch, "seconds": 0} for epoch in Run.read(folder).to_dict()["epochs"]] for folder in (one, other))
    assert a == b
    assert Run.read(one).initial_loss == Run.read(other).initial_loss
    for folder in (one, other):
        rows = (folder / "metrics.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows] == ["number", "1", "2", "3"]


@pytest.fixture
def whole(tmp_path):
    run(tmp_path / "whole")
    return tmp_path / "whole"


def test_a_training_killed_after_any_step_goes_on_as_if_nothing_had_been(whole, tmp_path):
    for every, steps in ((None, range(1, 13)), (1, (3, 8)), (3, (2, 7, 8))):
        for step in steps:
            folder = tmp_path / f"{every}-{step}"
            with pytest.raises(Killed):
                run(folder, on_event=kill_at(step), checkpoint_every=every)
            events = []
            run(folder, resume=True, checkpoint_every=every, events=events)
            same(whole, folder)
            # 4 steps an epoch: not more than what is after the last checkpoint is done again
            first = next(event.step for event in events if isinstance(event, StepDone))
            assert first == 1 + (step - 1) // 4 * 4 + (0 if every is None else (step - 1) % 4 // every * every)
            shutil.rmtree(folder)


def test_what_was_half_written_when_it_was_killed_is_removed(whole, tmp_path, monkeypatch):
    left = 0
    for last in range(10, 18):
        folder, count = tmp_path / str(last), 0

        def killed(handle, last=last):
            nonlocal count
            count += 1
            if count == last:
                raise Killed

        with monkeypatch.context() as patch:
            # as with SIGKILL no handler runs: what was begun stays
            patch.setattr(checkpoint.Path, "unlink", lambda self, missing_ok=False: None)
            patch.setattr(os, "fsync", killed)
            with pytest.raises(Killed):
                run(folder)
        left += any(file.name.count(".") > 2 for file in folder.iterdir())
        run(folder, resume=True)
        same(whole, folder)
        assert {file.name for file in folder.iterdir()} - {"checkpoint-previous.safetensors"} == {
            ".lock", "best.safetensors", "checkpoint.safetensors", "first_steps.json", "last.safetensors",
            "metrics.csv", "recipe.toml", "results.json", "sessions.json", "tensorboard",
        }  # fmt: skip
    assert left > 3


def test_tensorboard_has_every_epoch_once_however_often_it_was_killed(whole, tmp_path):
    # TensorBoard's own reader, which checks the checksums, without TensorFlow
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    def events(file):
        reader = PyRecordReader_New(str(file))
        while True:
            try:
                reader.GetNext()
            except Exception:
                return
            yield event_pb2.Event.FromString(reader.record())

    folder = tmp_path / "broken"
    for step in (6, 10):
        with pytest.raises(Killed):
            run(folder, resume=True, on_event=kill_at(step))
    run(folder, resume=True)
    for place in (whole, folder):
        (file,) = (place / "tensorboard").iterdir()
        first, *rest = events(file)
        assert first.file_version == "brain.Event:2"
        losses = [(e.step, v.simple_value) for e in rest for v in e.summary.value if v.tag == "loss"]
        assert losses == [(4 * e.number, pytest.approx(e.loss, rel=1e-6)) for e in Run.read(place).epochs]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_asks_it_to_stop_loses_nothing(whole, tmp_path, number):
    folder = tmp_path / "broken"
    for step in (2, 8):  # within an epoch, and at its end

        def ask(event, step=step):
            if isinstance(event, StepDone) and event.step == step:
                signal.raise_signal(number)

        before = signal.getsignal(number)
        with pytest.raises(Interrupted, match=rf"checkpoint\.safetensors holds step {step}") as caught:
            run(folder, resume=True, on_event=ask)
        assert caught.value.number == number
        assert signal.getsignal(number) is before
    run(folder, resume=True)
    same(whole, folder)


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(whole, tmp_path):
    folder = tmp_path / "full"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    events = []

    def fill(event):
        if isinstance(event, EpochDone) and event.epoch.number == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    try:
        with pytest.raises(OSError, match=r"end of the training could not be written: File too large; .*holds step 4"):
            run(folder, on_event=fill, events=events)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = [event.text for event in events if isinstance(event, Notice)]
    assert any("step 8 could not be written: File too large" in text and "holds step 4" in text for text in told)
    assert checkpoint.read(folder / checkpoint.CURRENT).header["progress"]["step"] == 4
    run(folder, resume=True)
    same(whole, folder)


def _truncate(content):
    return content[: len(content) // 2]


def _flip(place):
    def flipped(content):
        at = int(len(content) * place) if place < 1 else len(content) - 1
        return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]

    return flipped


def _other_header(content):
    arrays = safetensors.numpy.load(content)
    return safetensors.numpy.save(arrays, {"sbp_checkpoint": "{nonsense", "sbp_checksum": ""})


DAMAGE = {
    "empty": lambda content: b"",
    "text": lambda content: b"weights\n" * 100,
    "truncated": _truncate,
    "one byte short": lambda content: content[:-1],
    "a bit of the length": lambda content: bytes([content[0] ^ 4]) + content[1:],
    "a bit of the header": _flip(0.3),
    "a bit of the last number": _flip(1),
    "zeros at the end": lambda content: content[:-40] + bytes(40),
    "a header that is no JSON": _other_header,
    "other arrays": lambda content: safetensors.numpy.save({"weights/held": np.zeros(2)}),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_goes_on(whole, tmp_path, damage):
    folder = tmp_path / "broken"
    with pytest.raises(Killed):
        run(folder, on_event=kill_at(10))
    file = folder / checkpoint.CURRENT
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(DamagedError, match=r"checkpoint\.safetensors is damaged"):
        checkpoint.read(file)
    events = []
    run(folder, resume=True, events=events)
    (told,) = [event.text for event in events if isinstance(event, Notice)]
    assert "checkpoint.safetensors is damaged" in told
    assert "Going on from the one before" in told
    assert "step 4" in told
    same(whole, folder)


def test_where_no_checkpoint_is_sound_nothing_is_touched(tmp_path):
    folder = tmp_path / "broken"
    with pytest.raises(Killed):
        run(folder, on_event=kill_at(10))
    for name in (checkpoint.CURRENT, checkpoint.PREVIOUS):
        (folder / name).write_bytes(b"no")
    with pytest.raises(DamagedError, match=r"None is left to go on from: begin anew in another folder"):
        run(folder, resume=True)
    assert (folder / checkpoint.CURRENT).read_bytes() == b"no"


def test_a_checkpoint_of_another_version_is_told(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, resume=True, on_event=kill_at(5))
    file = tmp_path / checkpoint.CURRENT
    with safetensors.safe_open(file, "numpy") as opened:
        header = json.loads(opened.metadata()["sbp_checkpoint"]) | {"schema": "sbp.checkpoint/2"}
    arrays = safetensors.numpy.load_file(file)
    file.write_bytes(safetensors.numpy.save(arrays, {"sbp_checkpoint": json.dumps(header), "sbp_checksum": "new"}))
    with pytest.raises(ValueError, match=r"of schema 'sbp.checkpoint/2', and this version of sbp reads"):
        run(tmp_path, resume=True)


def test_a_checkpoint_of_another_recipe_or_other_data_is_told(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path / "a", on_event=kill_at(5))
    with pytest.raises(
        ValueError, match=r"of another recipe: learning_rate was 0\.01 and is 0\.02, seed was 0 and is 1"
    ):
        run(tmp_path / "a", {"learning_rate": 0.02, "seed": 1}, resume=True)
    with pytest.raises(ValueError, match=r"of another recipe: optimizer was"):
        run(tmp_path / "a", {"optimizer": SGD()}, resume=True)
    with pytest.raises(ValueError, match="was trained on other data"):
        run(tmp_path / "a", resume=True, source=source(seed=1))
    # before its first checkpoint too
    with pytest.raises(Killed):
        run(tmp_path / "b", on_event=kill_at(2))
    with pytest.raises(ValueError, match="of another recipe: epochs was 3 and is 4"):
        run(tmp_path / "b", {"epochs": 4}, resume=True)


def test_a_run_that_began_before_a_field_was_there_goes_on_with_its_default(tmp_path):
    recipe, file = Recipe(method="losses", neuron=LIFSpec()), tmp_path / checkpoint.CURRENT
    older = json.loads(json.dumps(recipe.to_dict()))
    del older["norm"], older["loss"]["step_teacher"], older["neuron"]["learn_initial"]
    check_recipe(recipe, older, file)
    for changes in ({"norm": "tebn"}, {"neuron": recipe.neuron.replace(learn_initial=True)}):
        with pytest.raises(ValueError, match=f"of another recipe: {next(iter(changes))} was"):
            check_recipe(recipe.replace(**changes), older, file)
    with pytest.raises(ValueError, match="a recipe that this version of sbp does not read: unknown field 'newer'"):
        check_recipe(recipe, older | {"newer": 1}, file)


def test_a_used_folder_is_refused_and_a_complete_run_is_returned(whole):
    before = {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()}
    with pytest.raises(
        ValueError, match=r"already holds a run \(checkpoint\.safetensors\): resume it, or name another"
    ):
        run(whole)

    def no_trainer(*arguments):
        raise AssertionError

    assert run(whole, resume=True, make_trainer=no_trainer).complete
    assert {name: (whole / name).read_bytes() for name in before if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path):
    def no_trainer(*arguments):
        raise AssertionError

    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(OSError, match="a run cannot be written into this folder"):
            run(folder, make_trainer=no_trainer)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="a run cannot be written into this folder"):
        run(tmp_path)


def test_two_runs_in_a_folder_are_refused_until_the_first_ends_however_it_does(tmp_path):
    def second(event):
        if isinstance(event, CheckpointWritten):
            with pytest.raises(LockedError, match="in use: another run of this process"):
                run(tmp_path / "a", resume=True)

    run(tmp_path / "a", on_event=second)
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            (tmp_path / "held").write_text("")
            time.sleep(60)
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(LockedError, match=f"in use: process {child} trains in it"), locked(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(tmp_path):
        pass


def test_a_loss_that_is_no_number_stops_the_run_and_the_checkpoint_before_it_stays(tmp_path):
    class Bursts(Stub):
        def train_step(self, images, labels, coefficient, learning_rate, step):
            if step == 7:
                self.held[:] = np.nan
                raise NotFiniteError("the loss became nan in step 7: ...")
            return super().train_step(images, labels, coefficient, learning_rate, step)

    with pytest.raises(NotFiniteError, match="in step 7"):
        run(tmp_path, make_trainer=Bursts, checkpoint_every=1, resume=True)
    found = checkpoint.read(tmp_path / checkpoint.CURRENT)
    assert found.header["progress"]["step"] == 6
    assert np.isfinite(found.arrays["weights/held"]).all()


def test_a_disk_that_fails_at_the_last_write_leaves_a_checkpoint_that_goes_on(whole, tmp_path, monkeypatch):
    folder, write = tmp_path / "broken", checkpoint.write

    def fails(place, arrays, header):
        if header["progress"]["step"] == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(place, arrays, header)

    monkeypatch.setattr(checkpoint, "write", fails)
    with pytest.raises(OSError, match=r"No space left on device; .* holds step 8\. Make room and resume"):
        run(folder)
    monkeypatch.undo()
    run(folder, resume=True)
    same(whole, folder)


@pytest.mark.parametrize("backend", ["jax", "tf", "torch"])
def test_resuming_in_a_framework_gives_the_same_bits(backend, tmp_path):
    options = {"make_trainer": None, "changes": {"backend": backend, "clip_norm": 1.0}, "checkpoint_every": 3}
    run(tmp_path / "whole", **options)
    for step in (4, 8):  # after a checkpoint, and two steps behind one
        with pytest.raises(Killed):
            run(tmp_path / "broken", on_event=kill_at(step), resume=True, **options)
    run(tmp_path / "broken", resume=True, **options)
    same(tmp_path / "whole", tmp_path / "broken")


def test_a_run_begun_in_torch_goes_on_in_jax_and_ends_in_keras(tmp_path):
    def part(folder, backend, stop):
        options = {"make_trainer": None, "changes": {"backend": backend, "learning_rate": 1e-3}, "resume": True}
        if stop is None:
            run(folder, **options)
            return
        with pytest.raises(Killed):
            run(folder, on_event=kill_at(stop), **options)

    part(tmp_path / "whole", "torch", None)
    part(tmp_path / "mixed", "torch", 5)
    part(tmp_path / "mixed", "jax", 9)
    part(tmp_path / "mixed", "tf", None)
    a, b = (checkpoint.read(tmp_path / name / checkpoint.CURRENT) for name in ("whole", "mixed"))
    assert [each["backend"] for each in b.header["sessions"]] == ["torch", "jax", "tf"]
    assert a.arrays["optimizer/step"] == b.arrays["optimizer/step"] == 12
    assert set(a.arrays) == set(b.arrays)
    for name in a.arrays:
        np.testing.assert_allclose(b.arrays[name], a.arrays[name], rtol=1e-3, atol=2e-6, err_msg=name)
    # and every framework loads what came of it
    import sbp_jax
    import sbp_torch

    file = tmp_path / "mixed" / "last.safetensors"
    net, other = sbp_torch.load(file), sbp_jax.load(file)
    np.testing.assert_array_equal(net.head.weight.detach().numpy(), np.asarray(other.head.kernel[...]).T)
    np.testing.assert_array_equal(net.head.weight.detach().numpy(), b.arrays["ema/weights/head.weight"])


SESSION = """
import sys
sys.path.insert(0, {tests!r})
import pathlib
from test_lab_checkpoint import run
from sbp_lab.training import StepDone
def on_event(event):
    if isinstance(event, StepDone):
        print(event.step, flush=True)
folder = pathlib.Path({folder!r})
run(folder, make_trainer=None, resume=True, checkpoint_every=2, on_event=on_event)
"""


def test_sigkill_at_random_moments_changes_no_bit(tmp_path):
    run(tmp_path / "whole", make_trainer=None)
    generator = np.random.default_rng(5)
    text = SESSION.format(tests=os.path.dirname(__file__), folder=str(tmp_path / "broken"))  # noqa: PTH120
    for last in (4, 9):
        child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
        for line in child.stdout:
            if int(line) >= last:
                break
        time.sleep(generator.uniform(0.0, 0.01))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    run(tmp_path / "broken", make_trainer=None, resume=True)
    same(tmp_path / "whole", tmp_path / "broken")
