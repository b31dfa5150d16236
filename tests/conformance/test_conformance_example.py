"""The fourth backend, on a framework that sbp does not know: it passes every level that it offers."""

import importlib.util
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_adapter_of_the_tutorial_equals_the_reference(python, tmp_path):
    if importlib.util.find_spec("autograd") is None:
        pytest.skip("not installed: autograd")
    text = (EXAMPLES / "autograd_backend.py").read_text()
    assert len(text.splitlines()) <= 120
    options = ("--backend", "autograd_backend:make_engine", "--json", "results.json")
    done = python("-m", "sbp_conformance", *options, autograd_backend=text)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    ran = {(outcome["level"], outcome["dtype"]) for outcome in run["outcomes"]}
    for level in ("surrogate", "neuron", "loss"):
        assert {(level, "float64"), (level, "float32")} <= ran
    assert ("schedule", "float32") in ran
    lacks = {(lack["kind"], lack["name"]) for lack in run["not_offered"]}
    assert {("mode", "compiled"), ("dtype", "float16"), ("member", "network")} <= lacks
    told = done.stdout.rstrip().partition("not offered by ")[2].splitlines()[1:]
    assert len(told) == 7
    page = (EXAMPLES.parent / "docs" / "backend_tutorial.md").read_text()
    assert "\n".join(f"    {line}".rstrip() for line in told) in page, "docs/backend_tutorial.md shows another result"


def test_the_suite_would_notice_if_it_were_wrong(python):
    if importlib.util.find_spec("autograd") is None:
        pytest.skip("not installed: autograd")
    text = (EXAMPLES / "autograd_backend.py").read_text()
    right = "defvjp(detach, None)"
    assert text.count(right) == 1
    wrong = text.replace(right, "defvjp(detach, lambda _, x: lambda g: g)")
    done = python("-m", "sbp_conformance", "--backend", "wrong:make_engine", "--case", "neuron-*", wrong=wrong)
    assert done.returncode == 1
    assert "gradient of the input: off by" in done.stdout
