"""The random level: the same neurons in every run, others on demand, and a failing one is told as a spec."""

import importlib.util
import re

import pytest

from sbp_conformance import Selection, cases_of, levels, run_backend
from sbp_conformance.run import matching
from sbp_core import LIFSpec, LossSpec
from sbp_core.reference.backend import ReferenceBackend


class Recording(ReferenceBackend):
    def __init__(self):
        self.specs = []

    def neuron(self, spec, *arguments, **options):
        self.specs.append(spec)
        return super().neuron(spec, *arguments, **options)


def specs(**fields):
    backend = Recording()
    (outcome,) = run_backend(backend, Selection(cases=["random-neurons"], dtypes=["float64"], **fields))
    assert outcome.passed
    assert {finding.quantity for finding in outcome.findings} >= {"spikes", "gradient of the input"}
    return backend.specs


def test_a_normal_run_makes_up_the_same_neurons_of_the_whole_family():
    first = specs()
    assert first == specs()
    assert len(first) >= 20
    for field in (
        "reset",
        "reset_timing",
        "output_delay",
        "detach_reset",
        "learn_decay",
        "inclusive",
        "complementary_state",
        "width_follows",
    ):
        assert len({getattr(spec, field) for spec in first}) > 1, field
    assert len({type(spec.surrogate) for spec in first}) >= 5


def test_a_search_makes_up_others():
    assert specs(examples=5) != specs(examples=5)


class RestIgnored(ReferenceBackend):
    def neuron(self, spec, *arguments, **options):
        return super().neuron(spec.replace(rest=0.0), *arguments, **options)


def test_a_fault_is_found_and_told_as_a_spec_that_still_fails():
    (outcome,) = run_backend(RestIgnored(), Selection(cases=["random-neurons"], dtypes=["float64"]))
    (told,) = [problem for problem in outcome.problems if problem.startswith("neuron: seed=")]
    spec = LIFSpec.from_json(re.search(r"spec=(.*)", told).group(1))
    assert spec.rest != 0.0
    assert any("off by" in problem or "differ" in problem for problem in outcome.problems)


class MainTeaches(ReferenceBackend):
    def __init__(self):
        self.specs = []

    def loss(self, *arguments, spec, **options):
        self.specs.append(spec)
        return super().loss(*arguments, spec=spec.replace(teacher="main"), **options)


def test_losses_of_every_kind_are_made_up_and_a_fault_in_one_is_told():
    backend = MainTeaches()
    (outcome,) = run_backend(backend, Selection(cases=["random-losses"], dtypes=["float64"]))
    (told,) = [problem for problem in outcome.problems if problem.startswith("loss: seed=")]
    spec = LossSpec.from_json(re.search(r"spec=(.*)", told).group(1))
    assert spec.teacher == "right"
    assert spec.distillation > 0.0
    backend = Faultless()
    (outcome,) = run_backend(backend, Selection(cases=["random-losses"], dtypes=["float64"]))
    assert outcome.passed
    for field in ("combine", "per_step", "teacher", "step_teacher", "detach_teacher", "timed", "needs_classes"):
        assert len({getattr(spec, field) for spec in backend.specs}) > 1, field


class Faultless(MainTeaches):
    def loss(self, *arguments, spec, **options):
        self.specs.append(spec)
        return ReferenceBackend.loss(self, *arguments, spec=spec, **options)


def test_a_search_shrinks_what_it_finds():
    class FailsWithASynapse(ReferenceBackend):
        def neuron(self, spec, *arguments, **options):
            if spec.synaptic_decay is not None:
                raise KeyError("no synapse")
            return super().neuron(spec, *arguments, **options)

    selection = Selection(cases=["random-neurons"], dtypes=["float64"], examples=20)
    (outcome,) = run_backend(FailsWithASynapse(), selection)
    assert "call: raised KeyError: 'no synapse'" in outcome.problems
    spec = LIFSpec.from_json(re.search(r"spec=(.*)", outcome.problems[-1]).group(1))
    assert (spec.reset, spec.synaptic_decay, spec.learn_decay) == ("hard", 0.0, False)


def test_without_hypothesis_the_level_is_left_out_and_asking_for_it_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hypothesis" else find(name))
    cases_of.cache_clear()
    assert "random" not in levels.default_levels()
    assert {case.level for case in matching(Selection())} == set(levels.LEVELS) - {"random"}
    with pytest.raises(ModuleNotFoundError, match="pip install hypothesis"):
        matching(Selection(levels=["random"]))
    cases_of.cache_clear()
