"""docs/results.md and docs/doctor.md show what the study's scripts print of the runs that are kept."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text()


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in ("study", "remedy_agreement", "early_agreement", "stepping", "plots", "record"):
        sys.modules.pop(name, None)


def test_every_table_is_the_studys():
    import study

    tables = study.tables(study.load())
    assert len(tables) >= 5
    for table in tables:
        assert table in PAGE, f"docs/results.md lacks what `benchmarks/study.py tables` prints:\n{table}"


def test_the_readme_has_the_studys_means():
    import study

    rows, readme = study.load(), (ROOT / "README.md").read_text()
    for data, name in {
        "digits": "digits",
        "fashion": "Fashion-MNIST",
        "cifar10": "CIFAR-10",
        "nmnist": "N-MNIST",
    }.items():
        found = [last.values() for last in (study.last(rows, data, "resnet34", method) for method in study.MAIN)]
        assert [len(each) for each in found] == [3, 3, 3]
        assert f"{name} {', '.join(f'{100 * sum(each) / 3:.0f}' for each in found)}" in " ".join(readme.split())
    long = [study.last(rows, study.LONG, "resnet34", method).values() for method in study.MAIN]
    assert f"make it {', '.join(f'{100 * sum(each) / 3:.0f}' for each in long)}" in " ".join(readme.split())


def test_what_each_remedy_mends_is_as_measured():
    pytest.importorskip("torch")
    import remedy_agreement

    assert remedy_agreement.table(json.loads(remedy_agreement.FILE.read_text())) in PAGE


def test_how_well_the_doctors_early_figures_tell_the_end_is_as_measured():
    pytest.importorskip("torch")
    import early_agreement

    table = early_agreement.table(json.loads(early_agreement.FILE.read_text()))
    assert table in (ROOT / "docs" / "doctor.md").read_text()


def test_every_stage_of_the_study_is_a_comparison_that_can_be_made():
    import study

    from sbp_lab import recipes
    from sbp_lab.methods import read_method
    from sbp_lab.results import Plan

    for data, stages in study.STAGES.items():
        recipe = recipes.load(study.RECIPES[data][0])
        for stage in stages:
            own = tuple(read_method(study.OWN[name]) for name in stage.methods if name in study.OWN)
            plan = Plan(recipe=recipe, data=(recipe.data,), nets=stage.nets, methods=stage.methods, own=own)
            assert len(plan.cells()) == 3 * len(stage.methods) * len(stage.nets)
