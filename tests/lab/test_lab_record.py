import json
import math

import pytest

from sbp_lab import files
from sbp_lab.files import write_json
from sbp_lab.optimizers import SGD
from sbp_lab.recipe import Recipe
from sbp_lab.record import Epoch, Run

RECIPE = Recipe(net="vgg11", width=2, epochs=3, optimizer=SGD(), taps=("stage1",))


def epochs(*accuracies, **fields):
    given = {"loss": 1.0, "first_gradient": 0.5, "last_gradient": 2.0} | fields
    return tuple(Epoch(number=number, accuracy=each, **given) for number, each in enumerate(accuracies, start=1))


def run(*accuracies, **fields):
    return Run(recipe=RECIPE, epochs=epochs(*accuracies, **fields), initial_loss=2.3, step_ms=3.0, seconds=1.0)


def test_a_written_run_reads_back_the_same(tmp_path):
    written = run(0.1, 0.3, 0.2, coefficient=0.25, learning_rate=0.01, firing_rate=0.2)
    path = written.write(tmp_path / "deep" / "folder")
    assert path.name == "results.json"
    assert Run.read(path.parent) == written


def test_a_run_is_complete_with_all_its_epochs_and_its_best_is_the_first_of_equals():
    assert [run(*[0.1] * count).complete for count in range(4)] == [False, False, False, True]
    assert run(0.1, 0.3, 0.3).best.number == 2
    assert run(0.1, 0.3, 0.2).accuracy == 0.2
    assert math.isnan(run().accuracy)


def test_the_file_says_what_was_run_where_and_with_what(tmp_path):
    content = json.loads(run(0.1, 0.9, 0.5).write(tmp_path).read_text())
    assert content["schema"] == "sbp.run/1"
    assert content["complete"] is True
    assert Recipe.from_dict(content["recipe"]) == RECIPE
    assert (content["accuracy"], content["best"]) == (0.5, {"epoch": 2, "accuracy": 0.9})
    assert content["gradient_ratio"] == 0.25
    assert {"python", "numpy"} <= set(content["versions"])
    assert content["machine"]["processors"] >= 1


def test_a_loss_that_is_no_number_is_null_in_the_file_and_nan_again_when_read(tmp_path):
    path = run(0.1, loss=math.nan, first_gradient=math.inf).write(tmp_path)
    assert json.loads(path.read_text())["epochs"][0]["loss"] is None
    assert math.isnan(Run.read(tmp_path).epochs[0].loss)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: Expecting property name"),
        ("[]", "must be a run of schema 'sbp.run/1', which this version of sbp reads; got None"),
        ('{"schema": "sbp.comparison/1"}', "got 'sbp.comparison/1'"),
        ('{"schema": "sbp.run/2"}', "got 'sbp.run/2'"),
        ('{"schema": "sbp.run/1"}', "is damaged: there is no 'recipe'"),
    ],
)
def test_a_file_of_another_kind_or_version_or_a_damaged_one_is_refused_by_its_name(text, message, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        Run.read(tmp_path)
    assert str(tmp_path / "results.json") in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"recipe": {"epochs": 0}}, {"epochs": [{"number": 1}]}, {"versions": None, "recipe": 3}]
)
def test_a_run_whose_fields_are_damaged_is_refused_by_its_name(change, tmp_path):
    path = run(0.1).write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"results\.json is damaged: "):
        Run.read(tmp_path)


def test_an_interrupted_write_leaves_the_earlier_file_whole_and_nothing_beside_it(tmp_path, monkeypatch):
    path = write_json(tmp_path / "results.json", {"earlier": 1})

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"later": 2})
    assert json.loads(path.read_text()) == {"earlier": 1}
    assert list(tmp_path.iterdir()) == [path]
