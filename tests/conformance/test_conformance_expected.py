"""Expected failures belong to the caller and are strict: none may pass, and none may be about nothing."""

import dataclasses
import json
import textwrap

import pytest

from sbp_conformance import cases_of
from sbp_conformance.cli import assemble
from sbp_conformance.expected import ExpectedFailures
from sbp_conformance.isolation import Gathered
from sbp_conformance.results import BackendRun, Finding, Outcome

SCHEDULES = len(cases_of("schedule"))
COSINES = sum(case.name.startswith("schedule-cosine") for case in cases_of("schedule"))

PLUGIN = """
    from sbp_core.reference.backend import ReferenceBackend

    class Half(ReferenceBackend):
        def schedule(self, schedule, step, *, mode):
            wrong = schedule.kind == "cosine"
            return super().schedule(schedule, step, mode=mode) / (2 if wrong else 1)
"""


@pytest.fixture
def suite(python, tmp_path):
    def run(text, *arguments):
        (tmp_path / "fails.toml").write_text(textwrap.dedent(text))
        given = ["-m", "sbp_conformance", "--expected-failures", "fails.toml", *arguments]
        return python(*given, plugin=PLUGIN)

    return run


HALF = ("--backend", "plugin:Half", "--level", "schedule")


def test_a_failure_that_is_expected_is_no_failure(suite):
    done = suite('"schedule-cosine-*" = "our cosine is halved, issue 12"', *HALF)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"schedule  eager  {SCHEDULES}/{SCHEDULES}" in done.stdout
    assert "schedule-cosine-epoch/eager/float32: our cosine is halved, issue 12" in done.stdout
    told = f"{SCHEDULES - COSINES} of {SCHEDULES} checks passed; {COSINES} failed as expected; "
    assert done.stdout.splitlines()[-1].startswith(told)


def test_one_that_passes_nevertheless_fails_the_run(suite):
    done = suite('"schedule-*-epoch/eager" = "all epochs are wrong"', *HALF)
    assert done.returncode == 1
    assert "PASSED UNEXPECTEDLY plugin:Half schedule-step-epoch eager float32" in done.stdout
    assert "expected to fail: all epochs are wrong" in done.stdout
    # and a failure that the pattern does not name is one
    assert "FAILED plugin:Half schedule-cosine-long eager float32" in done.stdout


def test_an_entry_that_matches_nothing_fails_the_run(suite):
    entries = '"schedule-cosine-*" = "halved"\n"schedule-cosine-*/compiled" = "halved"\n"no-such-case" = "gone"'
    done = suite(entries, *HALF, "--json", "r.json", "--html", "r.html")
    assert done.returncode == 1
    assert "expected failures that match no check:\n    schedule-cosine-*/compiled\n    no-such-case" in done.stdout


def test_an_entry_is_not_stale_because_the_selection_leaves_it_out(suite):
    entries = '"schedule-cosine-*" = "halved"\n"neuron-long-100-steps/eager/float64" = "slow"\n[jax]\n"x" = "y"'
    assert suite(entries, *HALF).returncode == 0


def test_a_table_is_about_one_backend(suite):
    named = '["plugin:Half"]\n"schedule-cosine-*" = "halved"'
    both = ("--backend", "plugin:Half", "--backend", "sbp_core.reference.backend:make_backend", "--level", "schedule")
    assert suite(named, *both).returncode == 0
    done = suite('"schedule-cosine-*" = "halved"', *both)
    assert done.returncode == 1
    assert "PASSED UNEXPECTEDLY sbp_core.reference.backend:make_backend schedule-cosine-long" in done.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = ", "not TOML"),
        ('"a" = 3', "'a' needs a reason, a text, got 3"),
        ('"a" = " "', "'a' needs a reason"),
        ('"a/b/c/d" = "why"', "a pattern is case, case/mode or case/mode/dtype, got 'a/b/c/d'"),
        ('"" = "why"', "a pattern is case"),
        ('a.b.c = "why"', "'b' needs a reason, a text, got {'c': 'why'}"),
    ],
)
def test_a_file_that_says_something_else_is_refused(suite, text, told):
    done = suite(text, *HALF)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_not_there_is_refused(suite, tmp_path):
    done = suite("", *HALF, "--expected-failures", "elsewhere.toml")
    assert done.returncode == 2
    assert "elsewhere.toml" in done.stderr


def read(tmp_path, text):
    file = tmp_path / "f.toml"
    file.write_text(text)
    return ExpectedFailures.read(file)


def test_a_pattern_names_checks_part_by_part(tmp_path):
    expected = read(tmp_path, '"a*" = "1"\n"b/eager" = "2"\n"c/*/float16" = "3"\n[torch]\n"d" = "4"')
    reasons = {
        ("torch", "ab/compiled/float32"): "1",
        ("torch", "b/eager/float64"): "2",
        ("torch", "b/compiled/float64"): None,
        ("torch", "c/compiled/float16"): "3",
        ("torch", "c/compiled/float32"): None,
        ("torch", "d/eager/float64"): "4",
        ("jax", "d/eager/float64"): None,
    }
    assert {key: expected.reason(*key) for key in reasons} == reasons


def test_a_backend_that_did_not_load_makes_no_entry_stale(tmp_path):
    expected = read(tmp_path, '[torch]\n"d" = "4"')
    assert expected.stale({}) == ()
    assert expected.stale({"jax": ["a/eager/float64"]}) == ()
    assert expected.stale({"torch": ["a/eager/float64"]}) == ("d (of torch)",)


def test_an_expected_failure_does_not_excuse_a_run_that_broke_off(tmp_path):
    bad = Finding(quantity="q", kind="value", problem="wrong")
    outcome = Outcome(level="l", case="c", seed=1, mode="eager", dtype="float64", seconds=0.0, findings=(bad,))
    run = BackendRun(backend="b", outcomes=(outcome,))
    expected = read(tmp_path, '"c" = "known"')
    told = assemble([Gathered(run=run, offered=(outcome.id,))], expected, asked=True)
    assert told.passed
    assert told.runs[0].outcomes[0].verdict == "failed as expected"
    assert json.loads(json.dumps(told.to_dict()))["runs"][0]["outcomes"][0]["expected"] == "known"
    broken = dataclasses.replace(run, status="crashed")
    assert not assemble([Gathered(run=broken, offered=(outcome.id,))], expected, asked=True).passed
