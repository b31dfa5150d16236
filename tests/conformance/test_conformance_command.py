"""The command line: one process a backend, every failure by name, and an exit status that tells."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from sbp_conformance import BackendRun, Finding, Outcome, table
from sbp_conformance.backends import default_names
from sbp_conformance.run import undeclared
from sbp_core.reference.backend import ReferenceBackend

REFERENCE = "sbp_core.reference.backend:make_backend"

PLUGIN = """
    import os, time
    from sbp_core.reference.backend import ReferenceBackend, make_backend

    class Half(ReferenceBackend):
        def schedule(self, schedule, step, *, mode):
            return super().schedule(schedule, step, mode=mode) / 2

    class Killed(ReferenceBackend):
        def loss(self, *arguments, **given):
            print("last words", flush=True)
            os._exit(17)

    class Slow(ReferenceBackend):
        def loss(self, *arguments, **given):
            time.sleep(60)

    class Poor(ReferenceBackend):
        dtypes = ("float32",)

    class Odd(ReferenceBackend):
        dtypes = ("float8",)

    class Noisy(ReferenceBackend):
        def __init__(self):
            print("noise on the way")

    half, killed, slow, poor, odd, noisy = Half, Killed, Slow, Poor, Odd, Noisy

    def broken():
        raise RuntimeError("no device found")

    def incomplete():
        return object()

    def asks():
        import a_package_that_nobody_has
"""


@pytest.fixture
def suite(tmp_path):
    """Run the command in a folder that holds a module of backends."""
    (tmp_path / "plugin.py").write_text(textwrap.dedent(PLUGIN))

    def run(*arguments):
        command = [sys.executable, "-m", "sbp_conformance", *arguments]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    return run


def test_a_sound_backend_passes_and_the_table_says_so(suite, tmp_path):
    done = suite("--backend", REFERENCE, "--level", "loss", "--level", "schedule", "--json", "deep/results.json")
    assert done.returncode == 0, done.stdout + done.stderr
    header, _, loss, schedule, *rest = done.stdout.splitlines()
    assert header.startswith("backend  ")
    assert header.endswith("level     mode   cases  gradient float64  gradient float32  spikes differing")
    assert loss.split()[2:] == ["loss", "eager", "26/26", "0.0e+00", "0.0e+00"]
    assert schedule.split()[2:] == ["schedule", "eager", "20/20"]
    assert rest[-1].endswith("checks passed")

    results = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert results["passed"] is True
    (run,) = results["runs"]
    assert (run["backend"], run["status"], run["passed"]) == (REFERENCE, "ran", True)
    assert run["versions"].keys() == {"numpy"}
    assert {outcome["level"] for outcome in run["outcomes"]} == {"loss", "schedule"}
    again = [Outcome.from_dict({k: v for k, v in o.items() if k != "passed"}) for o in run["outcomes"]]
    assert all(outcome.passed for outcome in again)


def test_a_failure_is_named_with_its_seed_and_the_command_that_repeats_it(suite):
    done = suite("--backend", "plugin:half", "--level", "schedule")
    assert done.returncode == 1
    assert "FAILED plugin:half schedule-cosine-epoch eager float32 (seed 0)" in done.stdout
    assert "coefficient at step 0: off by 0.5 of its largest magnitude" in done.stdout
    repeat = "--backend plugin:half --case schedule-cosine-epoch --mode eager --dtype float32"
    assert f"repeat: python -m sbp_conformance {repeat}" in done.stdout
    again = suite(*repeat.split())
    assert again.returncode == 1
    assert "0 of 1 checks passed" in again.stdout


def test_backends_that_break_are_named_and_the_run_goes_on(suite):
    names = ["plugin:broken", "plugin:incomplete", "plugin:asks", "plugin:odd", "plugin:none", "plugin:killed"]
    names += ["abacus", REFERENCE]
    done = suite(*(word for name in names for word in ("--backend", name)), "--level", "loss")
    assert done.returncode == 1
    for text in (
        "plugin:broken: failed to load: RuntimeError: no device found",
        "plugin:incomplete: failed to load: TypeError: backend 'plugin:incomplete' lacks name",
        "plugin:asks: not installed: ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
        "plugin:odd: failed to load: dtypes must hold 'float64', 'float32', 'bfloat16', 'float16'; got 'float8'",
        "plugin:none: failed to load: ValueError: backend 'plugin:none': module 'plugin' has no 'none'",
        "plugin:killed: crashed: in loss-logits-0-branches-0 eager float64, exit status 17\nlast words",
        "abacus: failed to load: ValueError: backend must be one of",
    ):
        assert text in done.stdout
    assert "26/26" in done.stdout


def test_a_backend_that_hangs_is_stopped(suite):
    done = suite("--backend", "plugin:slow", "--level", "loss", "--timeout", "8")
    assert done.returncode == 1
    assert "plugin:slow: timed out: in loss-logits-0-branches-0 eager float64, after 8 s" in done.stdout


def test_a_run_without_a_case_fails(suite):
    for arguments in (
        ["--case", "no-such-case"],
        ["--mode", "compiled"],
        ["--dtype", "bfloat16", "--level", "schedule"],
    ):
        done = suite("--backend", REFERENCE, *arguments)
        assert done.returncode == 1
        assert "no case ran" in done.stdout


def test_a_backend_is_held_only_to_what_it_declares(suite):
    done = suite("--backend", "plugin:poor", "--backend", "plugin:noisy", "--level", "surrogate")
    assert done.returncode == 0
    assert "noise" not in done.stdout
    assert done.stdout.count("51/51") == 2


def test_an_unknown_level_mode_or_dtype_is_refused(suite):
    for arguments in (["--level", "network9"], ["--mode", "lazy"], ["--dtype", "float8"], ["--jobs", "0"]):
        done = suite("--backend", REFERENCE, *arguments)
        assert done.returncode == 2
        assert "error" in done.stderr


def test_cases_are_listed_without_running(suite):
    done = suite("--list", "--case", "neuron-tie-hard-*")
    assert done.returncode == 0
    assert "neuron-tie-hard-gt-coarse" in done.stdout.split()
    assert all(name.startswith("neuron-tie-hard") for name in done.stdout.split())


def test_the_default_is_every_registered_backend_and_keras_on_each_framework():
    assert set(default_names()) >= {"torch", "tf", "jax", "keras-tensorflow", "keras-jax", "keras-torch"}
    assert "keras" not in default_names()


def test_the_suite_itself_loads_no_framework():
    code = "import sys, sbp_conformance.cli as c; c.parser(); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for framework in ("torch", "tensorflow", "jax", "keras", "pytest", "typer"):
        assert f"'{framework}'" not in loaded
    assert "'numpy'" in loaded


def outcome(*findings, case="c"):
    return Outcome(level="loss", case=case, seed=1, mode="eager", dtype="float64", seconds=0.0, findings=findings)


def test_a_case_that_compares_nothing_fails():
    assert outcome().problems == ("nothing was compared",)


def test_a_run_that_ended_early_fails_however_good_it_was_before():
    good = outcome(Finding(quantity="q", kind="value"))
    assert BackendRun(backend="b", outcomes=(good,)).passed
    assert not BackendRun(backend="b", status="crashed", outcomes=(good,)).passed
    assert not BackendRun(backend="b").passed


def test_the_table_shows_the_worst_error_and_counts_cases_and_spikes():
    spikes = Finding(quantity="s", kind="spikes", error=3.0, problem="3 of 9 differ")
    small, large = (Finding(quantity="g", kind="gradient", error=error) for error in (1e-16, 2e-13))
    run = BackendRun(backend="b", outcomes=(outcome(small, case="c"), outcome(large, spikes, case="d")))
    row = table.table([run]).splitlines()[-1].split()
    assert row == ["b", "loss", "eager", "1/2", "2.0e-13", "3"]
    endless = Finding(quantity="g", kind="gradient", error=float("inf"), problem="NaN")
    assert "inf" in table.table([BackendRun(backend="b", outcomes=(outcome(endless),))])
    assert Outcome.from_dict(outcome(endless).to_dict()) == outcome(endless)


def test_what_a_backend_declares_is_checked():
    class Declares(ReferenceBackend):
        def __init__(self, **members):
            vars(self).update(members)

    assert undeclared(Declares()) is None
    assert "modes must be a sequence" in undeclared(Declares(modes="eager"))
    assert "got 'lazy'" in undeclared(Declares(modes=("eager", "lazy")))
    assert "no mode" in undeclared(Declares(modes=()))
