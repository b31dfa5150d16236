import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

import sbp_torch
from sbp_core import registry
from sbp_lab import trainers
from sbp_lab.cli import app

# a parent may have told its children to ignore Ctrl-C
CODE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from sbp_lab.cli import app; app()"
TINY = ["--net", "resnet10", "--width", "2", "-T", "1", "--batch-size", "700"]


def sbp(*arguments):
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, list(arguments))


# compiling takes the time in tf and jax, so one method has to do there
@pytest.mark.parametrize(
    ("backend", "methods"),
    [
        ("torch", ["vanilla", "shortcut", "evolutionary"]),
        ("tf", ["evolutionary"]),
        ("jax", ["evolutionary"]),
    ],
)
def test_compare_trains_the_methods_and_leaves_a_table_a_file_and_a_plot(backend, methods, tmp_path):
    out = tmp_path / "out"
    settings = ["--backend", backend, "--methods", ",".join(methods), "--seeds", "1", "--epochs", "1", "--jobs", "1"]
    done = sbp("compare", *settings, "--out", str(out), *TINY)
    assert done.exit_code == 0, done.output
    for method in methods:
        assert re.search(rf"│ {method} +│ +\d+\.\d │", done.output), done.output
    content = json.loads((out / "results.json").read_text())
    assert content["complete"] is True
    assert content["recipe"]["backend"] == backend
    assert [run["method"] for run in content["runs"]] == methods
    for run in content["runs"]:
        assert 0.0 <= run["epochs"][0]["accuracy"] <= 1.0
        assert run["epochs"][0]["last_gradient"] > 0.0
        assert run["step_ms"] > 0.0
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_processes_side_by_side_find_what_one_process_finds(tmp_path):
    found = {}
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        arguments = ["--methods", "vanilla,evolutionary", "--seeds", "1", "--epochs", "2", "--jobs", jobs]
        done = sbp("compare", *arguments, "--out", str(out), *TINY)
        assert done.exit_code == 0, done.output
        found[jobs] = json.loads((out / "results.json").read_text())["runs"]
    assert [run["method"] for run in found["2"]] == ["vanilla", "evolutionary"]
    for alone, beside in zip(found["1"], found["2"], strict=True):
        # the number of threads may change the order of a sum
        assert alone["initial_loss"] == pytest.approx(beside["initial_loss"], rel=1e-5)


def test_train_writes_a_line_for_every_epoch(tmp_path):
    done = sbp("train", "--method", "shortcut", "--epochs", "2", "--out", str(tmp_path / "out"), *TINY)
    assert done.exit_code == 0, done.output
    assert re.findall(r"^epoch (\d): loss \d", done.output, re.MULTILINE) == ["1", "2"]


def test_gradients_shows_every_convolution_and_the_head(tmp_path):
    out = tmp_path / "out"
    done = sbp("gradients", "--out", str(out), *TINY)
    assert done.exit_code == 0, done.output
    norms = json.loads((out / "gradients.json").read_text())["norms"]
    assert set(norms) == {"vanilla", "shortcut", "evolutionary"}
    # ResNet-10: the stem, 8 convolutions, 3 on the identity path, the head
    assert len(norms["vanilla"]) == 13
    for layer in norms["vanilla"]:
        assert layer in done.output
    assert (out / "gradients.png").read_bytes().startswith(b"\x89PNG")


def test_what_follows_the_last_tap_gets_no_gradient_but_the_main_outputs(tmp_path):
    # losses apart: the branches' residuals reach their own stage and what is before it, never layer4 or the head
    out = tmp_path / "out"
    done = sbp("gradients", "--combine", "losses", "--taps", "layer1", "--out", str(out), *TINY)
    assert done.exit_code == 0, done.output
    norms = json.loads((out / "gradients.json").read_text())["norms"]
    assert norms["shortcut"]["head"] == pytest.approx(norms["vanilla"]["head"], rel=1e-5)
    assert norms["shortcut"]["layer2.0.conv1"] == pytest.approx(norms["vanilla"]["layer2.0.conv1"], rel=1e-5)
    assert norms["shortcut"]["stem.conv"] != pytest.approx(norms["vanilla"]["stem.conv"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--backend", "abacus"], "backend must be one of 'jax', 'tf', 'torch'; got 'abacus'"),
        (["train", "--net", "resnet9"], "net must be one of 'resnet10', 'resnet18', 'resnet34'; got 'resnet9'"),
        (["train", "--data", "letters"], "data must be one of 'digits'; got 'letters'"),
        (["train", "--method", "magic"], "method must be one of 'evolutionary', 'shortcut', 'vanilla'; got 'magic'"),
        (["compare", "--methods", "vanilla,magic"], "method must be one of 'vanilla', 'shortcut', 'evolutionary'"),
        (["train", "--taps", "layr1"], "tap 'layr1' does not exist; did you mean 'layer1'"),
        (["train", "--surrogate", "heaviside"], "surrogate must be one of 'rectangle'"),
        (["train", "--surrogate", "straight_through:2"], "surrogate 'straight_through' has no width"),
        (["train", "--surrogate", "triangle:wide"], "surrogate must be NAME or NAME:WIDTH, got 'triangle:wide'"),
        (["train", "--learning-rate", "0"], "learning_rate must be greater than 0"),
    ],
)
def test_a_wrong_argument_is_answered_in_a_line_that_says_what_is_allowed(arguments, message, tmp_path):
    done = sbp(*arguments, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert message in " ".join(re.sub(r"[│\n]", " ", done.output).split())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_results_is_not_written_over(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    done = sbp("train", "--out", str(tmp_path))
    assert done.exit_code == 2
    assert "already holds results.json" in done.output
    assert (tmp_path / "results.json").read_text() == "{}"


def test_backends_lists_what_is_installed_with_versions_devices_and_what_computes_a_neuron():
    done = sbp("backends")
    assert done.exit_code == 0, done.output
    words = set(re.findall(r"\w+", done.output))
    assert {sbp_torch.implementation_for(torch.empty(4, 1 << 16)), "unrolled", "scan"} <= words
    for name in ("torch", "tf", "jax", "keras"):
        assert re.search(rf"│ {name} +│", done.output), done.output
    assert importlib.metadata.version("torch") in done.output


@pytest.mark.parametrize(
    ("module", "arguments"), [(registry, ["backends"]), (trainers, ["train"]), (trainers, ["gradients"])]
)
def test_a_framework_that_is_not_installed_is_answered_with_its_extra(module, arguments, monkeypatch, tmp_path):
    def missing(name):
        raise registry.missing_framework("PyTorch", "torch", ModuleNotFoundError(name="torch"))

    monkeypatch.setattr(registry, "names", lambda: ["torch"])
    monkeypatch.setattr(module, "load", missing)
    monkeypatch.chdir(tmp_path)
    done = sbp(*arguments)
    assert done.exit_code == (0 if arguments == ["backends"] else 2), done.output
    assert 'in a checkout of sbp: pip install ".[torch]"' in " ".join(re.sub(r"[│\n]", " ", done.output).split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_finished_runs_and_leaves_no_process_behind(number, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", CODE, "compare", "--out", str(out), *TINY]
    process = subprocess.Popen(
        [*command, "--seeds", "2000", "--epochs", "1", "--jobs", "2"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    try:
        for line in process.stdout:
            if line.startswith("vanilla, seed"):
                break
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
    assert [path.name for path in out.iterdir()] == ["results.json"]
    deadline = time.monotonic() + 10
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(process.pid)


def _alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
