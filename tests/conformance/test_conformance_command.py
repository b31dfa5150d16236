"""The command line: one process a backend, every failure by name, and an exit status that tells."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from sbp_conformance import BackendRun, Finding, Outcome, Report, cases_of, files, table
from sbp_conformance.backends import default_names
from sbp_conformance.run import undeclared
from sbp_core.reference.backend import ReferenceBackend

SURROGATES = len(cases_of("surrogate"))

REFERENCE = "sbp_core.reference.backend:make_backend"
SCHEDULES, LOSSES = len(cases_of("schedule")), len(cases_of("loss"))

PLUGIN = """
    import ctypes, os, sys, time
    import numpy as np
    from sbp_core.backend import NotOffered
    from sbp_core.reference.backend import ReferenceBackend, make_backend

    class Half(ReferenceBackend):
        def schedule(self, schedule, step, *, mode):
            return super().schedule(schedule, step, mode=mode) / 2

    class Killed(ReferenceBackend):
        def loss(self, *arguments, **given):
            print("last words", flush=True)
            os._exit(0)

    class Segfault(ReferenceBackend):
        def schedule(self, schedule, step, *, mode):
            if schedule.kind == "cosine" and schedule.per == "epoch":
                ctypes.string_at(0)
            return super().schedule(schedule, step, mode=mode)

    class Slow(ReferenceBackend):
        def schedule(self, schedule, step, *, mode):
            if schedule.kind == "cosine" and schedule.total_steps == 1000:
                time.sleep(600)
            return super().schedule(schedule, step, mode=mode)

    class Exits(ReferenceBackend):
        def schedule(self, schedule, step, *, mode):
            sys.exit(0)

    class Malformed(ReferenceBackend):
        def loss(self, *arguments, **given):
            result = super().loss(*arguments, **given)
            return result._replace(value=str(result.value), grad_main=result.grad_main[None])

        def schedule(self, schedule, step, *, mode):
            return [super().schedule(schedule, step, mode=mode)]

        def spike(self, *arguments, **given):
            result = super().spike(*arguments, **given)
            return result._replace(spikes=result.spikes.astype(np.int8))

    class Poor(ReferenceBackend):
        dtypes = ("float32",)

    class Odd(ReferenceBackend):
        dtypes = ("float8",)

    class Unversioned(ReferenceBackend):
        versions = None

    class Noisy(ReferenceBackend):
        def __init__(self):
            print("noise on the way")

    class Started:
        name, versions, modes, dtypes = "started", {}, ("eager",), ("float64",)

        def spike(self, *arguments, **given):
            return ReferenceBackend().spike(*arguments, **given)

    class Misspelt(Started):
        nueron = Started.spike

    class One(ReferenceBackend):
        modes, dtypes, loss = ("eager",), ("float64", "float32"), None

        def neuron(self, spec, *arguments, **given):
            if spec.reset != "hard" or spec.learn_decay:
                raise NotOffered("a soft reset" if spec.reset != "hard" else "learnt decay")
            return super().neuron(spec, *arguments, **given)

    half, killed, poor, odd, noisy = Half, Killed, Poor, Odd, Noisy

    def broken():
        raise RuntimeError("no device found")

    def leaves():
        sys.exit(0)

    def dies():
        ctypes.string_at(0)

    def sleeps():
        time.sleep(600)

    def incomplete():
        return object()

    def asks():
        import a_package_that_nobody_has
"""


@pytest.fixture
def suite(python):
    """Run the command in a folder that holds a module of backends."""
    return lambda *arguments: python("-m", "sbp_conformance", *arguments, plugin=PLUGIN)


def test_a_sound_backend_passes_and_the_table_says_so(suite, tmp_path):
    done = suite("--backend", REFERENCE, "--level", "loss", "--level", "schedule", "--json", "deep/results.json")
    assert done.returncode == 0, done.stdout + done.stderr
    header, _, loss, schedule, *rest = done.stdout.splitlines()
    assert header.startswith("backend  ")
    assert re.split(r" {2,}", header)[1:] == [
        *("level", "mode", "cases", "gradient float64", "gradient float32", "spikes differing")
    ]
    assert loss.split()[2:] == ["loss", "eager", f"{LOSSES}/{LOSSES}", "0.0e+00", "0.0e+00"]
    assert schedule.split()[2:] == ["schedule", "eager", f"{SCHEDULES}/{SCHEDULES}"]
    assert re.fullmatch(r"(\d+) of \1 checks passed; \d+ not offered", rest[-1])

    results = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert (results["schema"], results["passed"], results["stale_expected_failures"]) == (1, True, [])
    assert results["environment"].keys() >= {"sbp", "python", "numpy", "system", "machine", "time"}
    (run,) = results["runs"]
    assert (run["backend"], run["status"], run["passed"]) == (REFERENCE, "ran", True)
    assert run["versions"].keys() == {"numpy"}
    assert {outcome["level"] for outcome in run["outcomes"]} == {"loss", "schedule"}
    again = [Outcome.from_dict({k: v for k, v in o.items() if k != "verdict"}) for o in run["outcomes"]]
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
    assert done.stdout.count("FAILED") == 20


def test_backends_that_break_are_named_and_the_run_goes_on(suite):
    names = ["broken", "leaves", "dies", "incomplete", "asks", "odd", "none", "Unversioned", "Misspelt"]
    done = suite(
        *(word for name in names for word in ("--backend", f"plugin:{name}")),
        "--backend",
        "abacus",
        "--backend",
        "plugn:Poor",
        "--backend",
        REFERENCE,
        "--level",
        "loss",
    )
    assert done.returncode == 1
    for text in (
        "plugin:broken: failed to load: RuntimeError: no device found",
        "plugin:leaves: failed to load: SystemExit: 0",
        "plugin:dies: crashed: while it was loaded, killed by SIGSEGV",
        "plugin:incomplete: failed to load: TypeError: backend 'plugin:incomplete' lacks name, versions, modes, dtypes",
        "plugin:asks: not installed: ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
        "plugin:odd: failed to load: TypeError: dtypes must hold 'float64', 'float32', 'bfloat16', 'float16'; got",
        "plugin:none: failed to load: ValueError: backend 'plugin:none': module 'plugin' has no 'none'",
        "plugin:Unversioned: failed to load: TypeError: versions must be a mapping of package to version, got None",
        "plugin:Misspelt: failed to load: TypeError: it has 'nueron' and no 'neuron': is that meant?",
        "abacus: failed to load: ValueError: backend must be one of",
        "plugn:Poor: failed to load: ValueError: backend 'plugn:Poor': there is no module 'plugn'",
    ):
        assert text in done.stdout
    assert f"{LOSSES}/{LOSSES}" in done.stdout


def test_a_check_that_takes_its_process_down_fails_and_the_others_still_run(suite):
    done = suite("--backend", "plugin:Segfault", "--level", "schedule")
    assert done.returncode == 1
    assert f"schedule  eager  {SCHEDULES - 3}/{SCHEDULES}" in done.stdout
    for case in ("schedule-cosine-epoch", "schedule-cosine-cut-epoch", "schedule-cosine-epochs-of-1"):
        assert (
            f"FAILED plugin:Segfault {case} eager float32 (seed 0)\n    process: crashed: killed by SIGSEGV"
            in done.stdout
        )


def test_a_backend_that_crashes_again_and_again_is_given_up(suite):
    done = suite("--backend", "plugin:killed", "--level", "loss")
    assert done.returncode == 1
    assert "plugin:killed: crashed: 5 checks took their process down; the rest did not run" in done.stdout
    assert "process: crashed: exit status 0\n    last words" in done.stdout


def test_a_check_that_hangs_is_stopped_and_the_others_still_run(suite):
    done = suite(
        "--backend", "plugin:Slow", "--backend", "plugin:sleeps", "--level", "schedule", "--check-timeout", "5"
    )
    assert done.returncode == 1
    assert f" {SCHEDULES - 1}/{SCHEDULES}" in done.stdout
    assert re.search(
        r"schedule-cosine-long eager float32 \(seed 0\)\n    process: timed out: no answer for \d+ s", done.stdout
    )
    assert "plugin:sleeps: timed out: while it was loaded, no answer for" in done.stdout


def test_a_backend_that_takes_too_long_is_stopped(suite):
    done = suite("--backend", "plugin:Slow", "--level", "schedule", "--timeout", "5")
    assert done.returncode == 1
    assert "plugin:Slow: timed out: after 5 s; the checks that were left did not run" in done.stdout


def test_an_exit_within_a_check_is_reported_as_that(suite):
    done = suite("--backend", "plugin:Exits", "--level", "schedule")
    assert "call: raised SystemExit: 0 (plugin.py:" in done.stdout
    assert f"schedule  eager  0/{SCHEDULES}" in done.stdout


def test_a_result_of_the_wrong_type_shape_or_dtype_is_reported_as_that(suite):
    done = suite("--backend", "plugin:Malformed", "--level", "loss", "--dtype", "float64")
    assert "loss: wrong type: expected a float, got str" in done.stdout
    assert "gradient of the main logits: wrong shape: expected (3, 4), got (1, 3, 4)" in done.stdout
    in_double = sum("float64" in case.dtypes for case in cases_of("loss"))
    assert f"and {in_double - 20} more checks of plugin:Malformed that failed" in done.stdout
    done = suite(
        "--backend", "plugin:Malformed", "--level", "schedule", "--level", "surrogate", "--case", "*-exponential-*"
    )
    assert "coefficient at step 0: wrong type: expected a float, got list" in done.stdout
    assert "spikes: wrong dtype: expected float64, got int8" in done.stdout


def test_a_backend_passes_what_it_has_and_the_members_that_it_lacks_are_named(suite):
    done = suite("--backend", "plugin:Started")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"surrogate  eager  {SURROGATES}/{SURROGATES}" in done.stdout
    for member in ("neuron", "loss", "schedule"):
        assert f"\n    member {member}: " in done.stdout
    done = suite("--backend", "plugin:Started", "--level", "schedule")
    assert done.returncode == 1
    assert "no case ran: it offers nothing of the selection" in done.stdout


def test_a_library_with_one_neuron_passes_what_it_has_and_what_it_declines_is_named(suite, tmp_path):
    levels = [word for level in ("neuron", "random", "edges") for word in ("--level", level)]
    done = suite("--backend", "plugin:One", *levels, "--json", "r.json")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    lacks = {(lack["kind"], lack["name"]): lack["checks"] for lack in run["not_offered"]}
    assert "edges-empty-neuron/eager/float64" in lacks["declined", "learnt decay"]
    assert "edges-soft-rectangle-huge/eager/float32" in lacks["declined", "a soft reset"]
    assert {"neuron", "random", "edges"} == {outcome["level"] for outcome in run["outcomes"]}
    ran = {f"{outcome['case']}/{outcome['mode']}/{outcome['dtype']}" for outcome in run["outcomes"]}
    assert not ran & {check for checks in lacks.values() for check in checks}
    assert re.search(r"\n    declined learnt decay: \d+ checks: neuron-", done.stdout)


def test_what_is_declined_alone_is_no_case_that_ran(suite):
    done = suite("--backend", "plugin:One", "--case", "edges-empty-neuron")
    assert done.returncode == 1
    assert "no case ran: it offers nothing of the selection" in done.stdout


def test_what_a_backend_does_not_offer_neither_passes_nor_fails(suite, tmp_path):
    done = suite("--backend", "plugin:poor", "--level", "surrogate", "--json", "r.json")
    assert done.returncode == 0
    assert f"not offered by plugin:poor:\n    dtype float64: {SURROGATES} checks" in done.stdout
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    lacks = {(lack["kind"], lack["name"]): lack for lack in run["not_offered"]}
    assert "surrogate-tanh-gt/eager/float64" in lacks["dtype", "float64"]["checks"]
    assert {outcome["dtype"] for outcome in run["outcomes"]} == {"float32"}


def test_a_run_without_a_case_fails(suite):
    for arguments, told in (
        (["--case", "no-such-case"], "the selection names none"),
        (["--mode", "compiled"], "it offers nothing of the selection"),
        (["--dtype", "bfloat16", "--level", "schedule"], "the selection names none"),
    ):
        done = suite("--backend", REFERENCE, *arguments)
        assert done.returncode == 1
        assert f"no case ran: {told}" in done.stdout


def test_a_backend_is_held_only_to_what_it_declares(suite):
    done = suite("--backend", "plugin:poor", "--backend", "plugin:noisy", "--level", "surrogate")
    assert done.returncode == 0
    assert "noise" not in done.stdout
    assert done.stdout.count(f"{SURROGATES}/{SURROGATES}") == 2


def test_an_unknown_level_mode_or_dtype_is_refused(suite):
    for arguments in (["--level", "network9"], ["--mode", "lazy"], ["--dtype", "float8"], ["--jobs", "0"]):
        done = suite("--backend", REFERENCE, *arguments)
        assert done.returncode == 2
        assert "error" in done.stderr


def test_a_sample_is_one_in_so_many_cases_of_each_level(suite):
    done = suite("--list", "--every", "9", "--level", "schedule", "--level", "loss")
    wanted = [case.name for level in ("schedule", "loss") for case in cases_of(level)[::9]]
    assert done.stdout.split() == wanted
    assert len(wanted) < 60


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
    assert "'sbp_conformance.mutants'" not in loaded
    for framework in ("torch", "tensorflow", "jax", "keras", "pytest", "cyclopts"):
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


def test_an_expected_failure_is_good_and_an_unexpected_pass_is_not():
    bad = outcome(Finding(quantity="q", kind="value", problem="wrong"))
    good = outcome(Finding(quantity="q", kind="value"))
    verdicts = {
        (each.passed, why): dataclasses.replace(each, expected=why).verdict
        for each in (bad, good)
        for why in (None, "w")
    }
    assert verdicts == {
        (False, None): "failed",
        (False, "w"): "failed as expected",
        (True, None): "passed",
        (True, "w"): "passed unexpectedly",
    }
    run = BackendRun(backend="b", outcomes=(dataclasses.replace(bad, expected="w"),))
    assert run.passed
    assert not dataclasses.replace(run, outcomes=(dataclasses.replace(good, expected="w"),)).passed
    assert Report(runs=(run,)).passed
    assert not Report(runs=(run,), stale=("x",)).passed
    assert not Report(runs=()).passed


def test_a_framework_that_is_missing_fails_only_where_it_was_asked_for():
    ran = BackendRun(backend="b", outcomes=(outcome(Finding(quantity="q", kind="value")),))
    absent = BackendRun(backend="c", status="not installed")
    assert Report(runs=(ran, absent), asked=False).passed
    assert not Report(runs=(ran, absent), asked=True).passed
    assert not Report(runs=(absent,), asked=False).passed


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    files.write(file, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write(file, "half \ud800")
    assert file.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]
    files.write(file, "new")
    assert file.read_text() == "new"
