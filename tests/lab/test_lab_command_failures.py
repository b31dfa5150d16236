"""What goes wrong: folders, disks, interrupts, failures in training; nothing that was done is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sbp_lab import comparison, results, trainers, training
from sbp_lab.training import Interrupted, LockedError, Started
from tests.lab.command import TINY, accuracy_of, made, sbp, words

# a parent may have told its children to ignore Ctrl-C
CODE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from sbp_lab.cli import app; app()"


def _folder_that_is_a_file(path):
    path.write_text("")
    return path, "is a file"


def _folder_in_a_file(path):
    path.write_text("")
    return path / "deep", "Not a directory"


def _folder_that_takes_no_file(path):
    return Path("/proc"), "cannot be written"


def _folder_that_cannot_be(path):
    return Path("/proc/new/deep"), "cannot be written"


def _folder_with_too_long_a_name(path):
    return path / ("x" * 300), "name too long"


@pytest.mark.parametrize("command", ["train", "compare", "gradients"])
@pytest.mark.parametrize(
    "make",
    [
        _folder_that_is_a_file,
        _folder_in_a_file,
        _folder_that_takes_no_file,
        _folder_that_cannot_be,
        _folder_with_too_long_a_name,
    ],
)
def test_a_folder_that_cannot_be_written_is_named_before_any_training(command, make, tmp_path, monkeypatch):
    monkeypatch.setattr(trainers, "load", None)
    out, message = make(tmp_path / "out")
    if out.is_relative_to("/proc") and not Path("/proc/self").exists():
        pytest.skip("/proc is not here: what a superuser cannot write either")
    done = sbp(command, "--out", str(out))
    assert done.exit_code == 2
    assert "Invalid value for --out" in words(done), words(done)
    assert message in words(done)


def test_a_failure_in_training_keeps_its_traceback_and_leaves_no_empty_folder(tmp_path, monkeypatch):
    def fail(recipe, folder, *, on_event, **_):
        on_event(
            Started(folder=folder, parameters=None, steps_per_epoch=1, total_steps=1, step=0, neurons="", devices=())
        )
        raise ValueError("from deep inside")

    monkeypatch.setattr(training, "train", fail)
    done = sbp("train", "--out", str(tmp_path / "new" / "out"), *TINY)
    assert done.exit_code == 1
    assert isinstance(done.exception, ValueError)
    assert "Invalid value" not in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            Interrupted("stopped after step 3: all is kept", signal.SIGTERM),
            143,
            "Interrupted: stopped after step 3: all",
        ),
        (Interrupted("stopped after step 3: all is kept", signal.SIGINT), 130, "Go on with: sbp train --resume"),
        (OSError(28, "No space left on device"), 1, "Stopped: [Errno 28] No space left on device"),
        (trainers.NotFiniteError("loss is nan in step 7"), 1, "Stopped: loss is nan in step 7"),
        (LockedError("another process trains in it"), 2, "sbp: another process trains in it"),
    ],
)
def test_a_training_that_is_stopped_says_so_in_a_line(error, code, said, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(training, "train", stop)
    done = sbp("train", "--out", str(tmp_path / "out"), *TINY)
    assert (done.exit_code, done.exception) == (code, None)
    assert said in done.output


def test_a_module_that_is_missing_deep_inside_is_not_blamed_on_the_backend(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ModuleNotFoundError("No module named 'colour'", name="colour")

    monkeypatch.setattr(training, "train", fail)
    done = sbp("train", "--out", str(tmp_path / "out"), *TINY)
    assert isinstance(done.exception, ModuleNotFoundError)
    assert "--backend" not in done.output


def test_a_disk_that_fills_while_training_does_not_cost_the_table(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(comparison, "train", lambda recipe, folder, **_: made(recipe, folder))
    monkeypatch.setattr(results, "write_json", full)
    done = sbp("compare", "--methods", "vanilla", "--seeds", "1", "--epochs", "1", "--jobs", "1",
               "--out", str(tmp_path / "out"), *TINY)  # fmt: skip
    assert done.exit_code == 1
    assert accuracy_of("vanilla", done.output), done.output
    assert "Could not write" in done.output
    assert "No space left on device" in done.output


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), trainers.NotFiniteError("loss")])
def test_a_run_that_fails_does_not_cost_the_others_and_is_made_again(error, tmp_path, monkeypatch):
    def train(recipe, folder, **_):
        if recipe.method == "shortcut" and broken:
            raise error
        return made(recipe, folder)

    monkeypatch.setattr(comparison, "train", train)
    out, broken = str(tmp_path / "out"), True
    done = sbp("compare", "--seeds", "1", "--jobs", "1", "--out", out, *TINY)
    assert done.exit_code == 1
    assert f"shortcut, seed 0: failed: {error}" in done.output
    assert "1 of 3 runs failed" in done.output
    assert accuracy_of("vanilla", done.output)
    assert accuracy_of("evolutionary", done.output)
    assert not accuracy_of("shortcut", done.output)
    broken = False
    again = sbp("compare", "--resume", out, "--jobs", "1")
    assert again.exit_code == 0, again.output
    assert accuracy_of("shortcut", again.output)


def test_a_folder_that_holds_results_is_not_written_over(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    done = sbp("train", "--out", str(tmp_path))
    assert done.exit_code == 2
    assert "already holds results.json" in done.output
    assert (tmp_path / "results.json").read_text() == "{}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_finished_runs_and_leaves_no_process_behind(number, tmp_path):
    out = tmp_path / "out"
    process = _comparing(out)
    try:
        _wait_for_the_first_run_of(process)
        # a terminal sends Ctrl-C to the whole group; a request to terminate goes to the one process
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    content = json.loads((out / "results.json").read_text())
    assert content["complete"] is False
    count = len(content["runs"])
    assert count >= 1
    assert f"results.json holds the {count} finished of 6000 runs" in output
    assert f"go on with: sbp compare --resume {out}" in output
    assert sorted(path.name for path in out.iterdir()) == ["recipe.toml", "results.json", "runs"]
    _wait_for_the_end_of(process.pid)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    # no handler runs then, and idle workers would wait for their queue for ever
    process = _comparing(tmp_path / "out", stderr=subprocess.DEVNULL)
    try:
        _wait_for_the_first_run_of(process)
        process.kill()
        process.wait(timeout=60)
        _wait_for_the_end_of(process.pid)
    finally:
        if _alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def _comparing(out, stderr=None):
    """Start a comparison that lasts, in a group of processes of its own."""
    many = ["--seeds", "2000", "--epochs", "1", "--jobs", "2"]
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "compare", "--out", str(out), *TINY, *many],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
        env=os.environ | {"COLUMNS": "200"},
    )


def _wait_for_the_first_run_of(process):
    for line in process.stdout:
        if line.startswith("vanilla, seed"):
            break


def _wait_for_the_end_of(group):
    deadline = time.monotonic() + 30
    while _alive(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(group)


def _alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
