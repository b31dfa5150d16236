"""The suite bites: every fault planted in a real adapter is caught, by a check that passes on the adapter as it is."""

import importlib.util
import json
import subprocess
import sys

import pytest

from sbp_conformance.levels import cases_of
from sbp_conformance.mutants import MUTANTS, Mutant
from sbp_conformance.mutants.command import Score, render
from sbp_conformance.mutants.hunt import Hunt, hunt
from sbp_conformance.mutants.seams import ADAPTERS, planted
from sbp_core.reference.backend import ReferenceBackend

PACKAGES = {"torch": "torch", "tf": "tensorflow", "jax": "jax"}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_mutant_of_every_adapter_is_caught(tmp_path):
    names = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is not None]
    if not names:
        pytest.skip("not installed: torch, tensorflow, jax")
    command = [sys.executable, "-m", "sbp_conformance", "--mutants", "--json", str(tmp_path / "mutants.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n")
    told = json.loads((tmp_path / "mutants.json").read_text())
    assert [score["backend"] for score in told["scores"]] == names
    for score in told["scores"]:
        assert [mutant for mutant in score["mutants"] if not mutant["caught"]] == []
        assert score["problem"] == ""
        left_out = ADAPTERS[score["backend"]].left_out
        planned = sum(mutant.level not in left_out and not mutant.kind for mutant in MUTANTS)
        assert score["caught"] == score["planned"] == planned >= 130
        # a hundred faults of the contract's edge alone would prove little
        assert sum(mutant["seam"] in ADAPTERS[score["backend"]].seams for mutant in score["mutants"]) >= 60
        # caught by what was compared, each in the level that is to catch it
        assert all(mutant["quantity"] and mutant["problem"] for mutant in score["mutants"])
        assert all(mutant["check"].startswith(mutant["level"]) for mutant in score["mutants"])
    assert done.returncode == 0


def test_every_fault_by_kind_is_caught_at_the_contract(tmp_path):
    command = [sys.executable, "-m", "sbp_conformance", "--mutants", "*: *", "--json", str(tmp_path / "kinds.json")]
    command += ["--backend", "sbp_core.reference.backend:make_backend"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (score,) = json.loads((tmp_path / "kinds.json").read_text())["scores"]
    assert [mutant for mutant in score["mutants"] if not mutant["caught"]] == []
    assert score["planned"] == sum(bool(mutant.kind) for mutant in MUTANTS) >= 120
    assert f"wide inputs            {sum(m['kind'] == 'wide inputs' for m in score['mutants'])} of" in done.stdout
    assert done.returncode == 0


def test_mutants_have_names_of_their_own():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 60


def of_schedule(change, seam="schedule"):
    return Mutant(name="m", level="schedule", seam=seam, change=change, dtypes=("float32",))


def test_a_fault_that_changes_nothing_survives():
    (found,) = hunt("reference", ReferenceBackend(), [of_schedule(lambda right, operations: right)])
    assert not found.caught
    assert (found.check, found.problem) == (None, "no check failed")
    assert found.checks == len(cases_of("schedule"))


def test_a_fault_that_only_raises_is_not_counted():
    def raises(right, operations):
        def schedule(*arguments, **given):
            raise ValueError("planted")

        return schedule

    (found,) = hunt("reference", ReferenceBackend(), [of_schedule(raises)])
    assert not found.caught


def test_a_check_that_fails_on_the_backend_as_it_is_has_caught_nothing():
    class Half(ReferenceBackend):
        def schedule(self, schedule, step, *, mode):
            return super().schedule(schedule, step, mode=mode) / 2

    (found,) = hunt("reference", Half(), [of_schedule(lambda right, operations: right)])
    assert found.check is not None
    assert "off by 0.5" in found.alarm
    assert not found.caught


def test_a_seam_that_is_gone_is_told(monkeypatch):
    torch = pytest.importorskip("torch", reason="not installed: torch")
    assert torch
    monkeypatch.setitem(ADAPTERS["torch"].seams, "gone", ("sbp_torch.neuron:no_such_function",))
    (found,) = hunt("torch", ReferenceBackend(), [of_schedule(lambda right, operations: right, seam="gone")])
    assert not found.caught
    assert "could not be planted" in found.problem
    assert "no_such_function" in found.problem


def test_a_mutant_is_taken_out_again_and_never_reaches_the_reference():
    pytest.importorskip("torch", reason="not installed: torch")
    import sbp_core.dynamics
    import sbp_core.reference.neuron
    import sbp_torch.neuron

    right = sbp_torch.neuron.dynamics
    mutant = next(mutant for mutant in MUTANTS if mutant.seam == "step")

    def within():
        with planted(mutant, "torch", ReferenceBackend()):
            assert sbp_torch.neuron.dynamics.step is not sbp_core.dynamics.step
            assert sbp_core.reference.neuron.dynamics.step is sbp_core.dynamics.step
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        within()
    assert sbp_torch.neuron.dynamics is right


def test_the_table_names_what_caught_each_mutant_and_what_survived():
    fields = {"mutant": "off by one", "level": "neuron", "seam": "step", "backend": "torch"}
    caught = Hunt(**fields, check="neuron-a/eager/float64", quantity="spikes", problem="3 differ", checks=2)
    survivor = Hunt(**(fields | {"mutant": "subtle"}), problem="no check failed", checks=7)
    good = Score(backend="torch", planned=1, hunts=(caught,))
    bad = Score(backend="torch", planned=2, hunts=(caught, survivor))
    assert good.passed
    assert not bad.passed
    assert not Score(backend="torch", planned=2, hunts=(caught,), problem="exit status 1").passed
    assert not Score(backend="torch", planned=0, hunts=()).passed
    told = render([bad])
    assert "neuron-a/eager/float64: spikes" in told
    assert "SURVIVED torch subtle (neuron, 7 checks)\n    no check failed" in told
    assert "torch: 1 of 2 mutants caught, 0 false alarms" in told


def test_a_name_that_no_mutant_has_fails():
    command = [sys.executable, "-m", "sbp_conformance", "--mutants", "no such fault"]
    command += ["--backend", "sbp_core.reference.backend:make_backend"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "0 of 0 mutants caught" in done.stdout
