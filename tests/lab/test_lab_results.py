import io
import json
import math

import pytest
from rich.console import Console

from sbp_core import ResNetSpec
from sbp_lab import plots
from sbp_lab.results import Comparison, table
from sbp_lab.training.old import Epoch, Recipe, Run

NETWORK = ResNetSpec(depths=(1, 1), widths=(4, 8), in_channels=1, time_steps=2)
RECIPE = Recipe(backend="torch", data="digits", network=NETWORK, taps=("layer1",), epochs=2)


def run(method, seed, accuracy, first=0.5, last=2.0, step_ms=3.0):
    epochs = tuple(
        Epoch(loss=1.0, accuracy=value, first_gradient=first, last_gradient=last) for value in (0.9, accuracy)
    )
    return Run(method=method, seed=seed, initial_loss=2.3, epochs=epochs, step_ms=step_ms, seconds=1.0)


def comparison(*runs):
    empty = Comparison(recipe=RECIPE, methods=("vanilla", "evolutionary"), seeds=(0, 1), jobs=2)
    for each in runs:
        empty = empty.with_run(each)
    return empty


FOUR = (
    run("evolutionary", 1, 0.7, first=8.0, step_ms=9.0),
    run("vanilla", 0, 0.5),
    run("evolutionary", 0, 0.6, first=4.0, step_ms=5.0),
    run("vanilla", 1, 0.5),
)


def test_the_summary_is_of_the_last_epoch_and_its_spread_is_the_sample_deviation():
    vanilla, evolutionary = comparison(*FOUR).summaries()
    assert (vanilla.method, vanilla.accuracy, vanilla.accuracy_deviation) == ("vanilla", 0.5, 0.0)
    assert evolutionary.accuracy == pytest.approx(0.65, abs=1e-12)
    assert evolutionary.accuracy_deviation == pytest.approx(math.sqrt(2 * 0.05**2 / 1), abs=1e-12)
    assert evolutionary.gradient_ratio == 3.0
    assert evolutionary.gradient_ratio_range == (2.0, 4.0)
    assert evolutionary.step_ms == 7.0


def test_runs_stand_in_the_order_that_was_asked_for_however_they_finish():
    assert [(each.method, each.seed) for each in comparison(*FOUR).runs] == comparison().pairs()


def test_a_written_comparison_reads_back_the_same(tmp_path):
    written = comparison(*FOUR)
    path = written.write(tmp_path / "deep" / "folder")
    assert path.name == "results.json"
    assert Comparison.read(path) == written


def test_the_file_says_what_was_run_where_and_with_what(tmp_path):
    content = json.loads(comparison(*FOUR).write(tmp_path).read_text())
    assert content["schema"] == "sbp.comparison/1"
    assert content["complete"] is True
    assert content["seeds"] == [0, 1]
    assert Recipe.from_dict(content["recipe"]) == RECIPE
    assert content["methods"]["vanilla"] is None
    assert content["methods"]["evolutionary"]["initial"] == 0.25
    assert {"python", "numpy"} <= set(content["versions"])
    assert content["machine"]["processors"] >= 1
    assert [epoch["accuracy"] for epoch in content["runs"][0]["epochs"]] == [0.9, 0.5]
    assert {row["method"]: row["accuracy"] for row in content["summary"]}["vanilla"] == 0.5


def test_a_comparison_that_lacks_runs_says_so(tmp_path):
    content = json.loads(comparison(FOUR[0]).write(tmp_path).read_text())
    assert content["complete"] is False
    assert len(content["runs"]) == 1


def test_a_loss_that_is_not_a_number_is_null_in_the_file_and_nan_again_when_read(tmp_path):
    broken = run("vanilla", 0, 0.1)
    epochs = (Epoch(loss=math.nan, accuracy=0.1, first_gradient=math.inf, last_gradient=0.0),)
    broken = Run(method="vanilla", seed=0, initial_loss=math.nan, epochs=epochs, step_ms=1.0, seconds=1.0)
    path = comparison(broken).write(tmp_path)
    assert json.loads(path.read_text())["runs"][0]["epochs"][0]["loss"] is None
    assert math.isnan(Comparison.read(path).runs[0].epochs[0].loss)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"does not hold a comparison of schema 'sbp.comparison/1'"):
        Comparison.read(tmp_path / "results.json")


def test_the_table_shows_mean_spread_gradient_and_time():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(comparison(*FOUR)))
    line = next(line for line in console.export_text().splitlines() if "evolutionary" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["evolutionary", "65.0 ± 7.1", "3 (2 to 4)", "7.0"]


def test_the_table_says_when_seeds_are_missing():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(comparison(FOUR[0], FOUR[1], FOUR[3])))
    assert "evolutionary (1 of 2)" in console.export_text()


@pytest.mark.parametrize("runs", [FOUR, FOUR[:1], (run("vanilla", 0, 0.1, first=0.0),)])
def test_the_plot_is_a_picture_even_of_few_runs_or_no_gradient_at_all(tmp_path, runs):
    path = plots.plot_comparison(comparison(*runs), tmp_path / "comparison.png")
    assert path.read_bytes().startswith(b"\x89PNG")
