import dataclasses
import io
import json
import math
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

from sbp_core import Constant, Evolutionary
from sbp_lab import plots
from sbp_lab.recipe import Recipe
from sbp_lab.record import Epoch, Run
from sbp_lab.report import html, write_report
from sbp_lab.results import Cell, Comparison, Plan, finished, paired
from sbp_lab.tables import table

RECIPE = Recipe(net="resnet10", width=2, time_steps=2, epochs=2)
PLAN = Plan(recipe=RECIPE, data=("digits",), nets=("resnet10",), methods=("vanilla", "evolutionary"), seeds=(0, 1))


def run(cell, accuracy, first=0.5, last=2.0, step_ms=3.0, plan=PLAN):
    epochs = tuple(
        Epoch(number=number, loss=1.0, accuracy=value, first_gradient=first, last_gradient=last)
        for number, value in ((1, 0.9), (2, accuracy))
    )
    return Run(recipe=plan.recipe_of(cell), epochs=epochs, initial_loss=2.3, step_ms=step_ms, seconds=1.0)


def cell(method, seed, net="resnet10", data="digits"):
    return Cell(data, net, method, seed)


def comparison(*found, plan=PLAN):
    so_far = Comparison(plan=plan, jobs=2)
    for place, each in found:
        so_far = so_far.with_run(place, each)
    return so_far


def of(method, seed, accuracy, **fields):
    return cell(method, seed), run(cell(method, seed), accuracy, **fields)


FOUR = (
    of("evolutionary", 1, 0.7, first=8.0, step_ms=9.0),
    of("vanilla", 0, 0.5),
    of("evolutionary", 0, 0.6, first=4.0, step_ms=5.0),
    of("vanilla", 1, 0.5),
)


def test_the_summary_is_of_the_last_epoch_and_its_spread_is_the_sample_deviation():
    vanilla, evolutionary = comparison(*FOUR).summaries()
    assert (vanilla.method, vanilla.accuracy, vanilla.accuracy_deviation) == ("vanilla", 0.5, 0.0)
    assert evolutionary.accuracy == pytest.approx(0.65, abs=1e-12)
    assert evolutionary.accuracy_deviation == pytest.approx(math.sqrt(2 * 0.05**2 / 1), abs=1e-12)
    assert evolutionary.best == 0.9
    assert evolutionary.gradient_ratio == 3.0
    assert evolutionary.gradient_ratio_range == (2.0, 4.0)
    assert evolutionary.step_ms == 7.0


# t(0.975, n - 1) of a printed table: 12.706, 4.303, 3.182
@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (4, 3.182)])
def test_the_interval_of_a_paired_difference_is_students(count, quantile):
    baseline = [0.5, 0.25, 0.125, 0.75][:count]
    gains = [0.1, 0.2, 0.4, 0.3][:count]
    got = paired([base + gain for base, gain in zip(baseline, gains, strict=True)], baseline)
    mean = sum(gains) / count
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (count - 1) / count)
    assert got.mean == pytest.approx(mean)
    assert (got.low, got.high) == pytest.approx((mean - quantile * error, mean + quantile * error), rel=1e-3)


def test_a_difference_is_of_the_seeds_that_both_have():
    both = comparison(*FOUR).summaries()[1].difference
    assert (both.mean, both.pairs) == (pytest.approx(0.15), 2)
    one = comparison(FOUR[0], FOUR[2], FOUR[3]).summaries()[1].difference
    assert one == (pytest.approx(0.2), None, None, 1)
    assert comparison(FOUR[0], FOUR[1]).summaries()[1].difference is None
    assert comparison(*FOUR).summaries()[0].difference is None


def test_a_baseline_of_ones_own_takes_vanillas_place_in_the_figures_the_table_and_the_file(tmp_path):
    found = dataclasses.replace(comparison(*FOUR), plan=dataclasses.replace(PLAN, baseline="evolutionary"))
    vanilla, evolutionary = found.summaries()
    assert (vanilla.difference.mean, evolutionary.difference) == (pytest.approx(-0.15), None)
    assert any("less evolutionary's" in line for line in printed(found))
    assert "less evolutionary's" in html(found).replace("&#x27;", "'")
    for place, each in found.runs.items():
        each.write(tmp_path / place.folder)
    found.write(tmp_path)
    assert Comparison.read(tmp_path) == found


def test_a_file_from_before_there_were_baselines_has_vanillas(tmp_path):
    path = comparison().write(tmp_path)
    content = json.loads(path.read_text())
    del content["baseline"]
    path.write_text(json.dumps(content))
    assert Comparison.read(tmp_path).plan.baseline == "vanilla"


def test_runs_stand_in_the_order_that_was_asked_for_however_they_finish():
    assert list(comparison(*FOUR).runs) == PLAN.cells()


def test_a_written_comparison_reads_back_the_same(tmp_path):
    written = comparison(*FOUR)
    for place, each in written.runs.items():
        each.write(tmp_path / place.folder)
    written.write(tmp_path)
    assert Comparison.read(tmp_path) == written


def test_the_file_says_what_was_run_where_and_with_what(tmp_path):
    content = json.loads(comparison(*FOUR).write(tmp_path).read_text())
    assert content["schema"] == "sbp.comparison/2"
    assert content["complete"] is True
    assert (content["data"], content["nets"], content["seeds"]) == (["digits"], ["resnet10"], [0, 1])
    assert Recipe.from_dict(content["recipe"]) == RECIPE
    assert content["methods"]["vanilla"] is None
    assert content["methods"]["evolutionary"]["initial"] == 0.25
    assert {"python", "numpy"} <= set(content["versions"])
    assert content["machine"]["processors"] >= 1
    assert [line["accuracy"] for line in content["runs"]] == [0.5, 0.5, 0.6, 0.7]
    assert content["runs"][3]["folder"] == "runs/digits/resnet10/evolutionary/seed1"
    assert {row["method"]: row["accuracy"] for row in content["summary"]}["vanilla"] == 0.5
    assert content["summary"][1]["difference"]["mean"] == pytest.approx(0.15)


def test_a_comparison_that_lacks_runs_says_so(tmp_path):
    content = json.loads(comparison(FOUR[0]).write(tmp_path).read_text())
    assert content["complete"] is False
    assert len(content["runs"]) == 1


def test_every_run_of_a_comparison_is_what_its_cell_says():
    base = RECIPE.replace(coefficient=Evolutionary(initial=0.5), seed=7)
    plan = Plan(recipe=base, data=("digits",), nets=("resnet10", "vgg11"), methods=("vanilla", "shortcut"), seeds=(3,))
    recipes = [plan.recipe_of(each) for each in plan.cells()]
    assert [(each.net, each.method, each.seed) for each in recipes] == [
        ("resnet10", "vanilla", 3),
        ("resnet10", "shortcut", 3),
        ("vgg11", "vanilla", 3),
        ("vgg11", "shortcut", 3),
    ]
    assert [each.coefficient for each in recipes] == [None, base.coefficient] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ()}, "methods must hold at least one"),
        ({"methods": ("vanila",)}, "did you mean 'vanilla'"),
        ({"seeds": (0, 0)}, "seeds must not repeat"),
        ({"seeds": (-1,)}, "seeds must be at least 0"),
        ({"nets": ("resnet9",)}, "net must be one of"),
        ({"baseline": "losses"}, "baseline must be one of 'vanilla', 'shortcut', 'evolutionary'; got 'losses'"),
        ({"data": ("folder/a", "folder:a")}, "must differ in more than punctuation"),
    ],
)
def test_a_plan_that_cannot_be_says_which_of_its_lists_is_wrong(change, message):
    fields = {"recipe": RECIPE, "data": ("digits",), "nets": ("resnet10",)}
    with pytest.raises(ValueError, match=message):
        Plan(**fields | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("{}", r"must be a comparison of schema 'sbp.comparison/2', which this version of sbp reads; got None"),
        ('{"schema": "sbp.comparison/1"}', "which this version of sbp reads; got 'sbp.comparison/1'"),
        ('{"schema": "sbp.run/1"}', "got 'sbp.run/1'"),
        ('{"schema": "sbp.comparison/2"}', "is damaged: there is no 'recipe'"),
    ],
)
def test_a_file_of_another_kind_or_an_earlier_version_or_a_damaged_one_is_refused(text, message, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Comparison.read(tmp_path)


def test_only_complete_runs_of_the_very_recipe_are_finished(tmp_path):
    place, whole = FOUR[0]
    whole.write(tmp_path / place.folder)
    part = Run(recipe=whole.recipe.replace(seed=0), epochs=whole.epochs[:1])
    part.write(tmp_path / cell("evolutionary", 0).folder)
    assert list(finished(PLAN, tmp_path)) == [place]
    other = Plan(**{**vars(PLAN), "recipe": RECIPE.replace(learning_rate=0.5)})
    with pytest.raises(ValueError, match=r"seed0 was run with learning_rate=0.01, and the comparison asks for 0.5"):
        finished(other, tmp_path)


def printed(found, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(found))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_table_shows_mean_spread_difference_best_gradient_and_time_in_80_columns():
    lines = printed(comparison(*FOUR))
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    place = next(number for number, line in enumerate(lines) if line.startswith("evolutionary"))
    assert re.split(r"  +", lines[place]) == ["evolutionary", "65.0 ± 7.1", "+15.0", "90.0", "3", "7.0"]
    # 0.15 +- 12.706 * 0.0707 / sqrt(2)
    assert re.split(r"  +", lines[place + 1].strip()) == ["(-48.5 to +78.5)", "(2 to 4)"]


def test_the_table_says_when_seeds_are_missing_and_names_what_there_is_several_of():
    assert any(line.startswith("(1 of 2)") for line in printed(comparison(FOUR[0], FOUR[1], FOUR[3])))
    plan = Plan(recipe=RECIPE, data=("digits",), nets=("resnet10", "vgg11"), methods=("vanilla",), seeds=(0,))
    found = comparison(*((each, run(each, 0.5, plan=plan)) for each in plan.cells()), plan=plan)
    assert [line.split()[:2] for line in printed(found) if " vanilla " in line] == [
        ["resnet10", "vanilla"],
        ["vgg11", "vanilla"],
    ]
    assert any("resnet10, vgg11 of width 2 on digits" in line for line in printed(found))


@pytest.mark.parametrize("found", [FOUR, FOUR[:1], (of("vanilla", 0, 0.1, first=0.0),)])
def test_the_plot_is_a_picture_even_of_few_runs_or_no_gradient_at_all(tmp_path, found):
    path = plots.plot_comparison(comparison(*found), tmp_path / "comparison.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_report_is_one_page_that_needs_nothing_else_with_every_run_and_a_picture(tmp_path):
    text = write_report(comparison(*FOUR), tmp_path / "report.html").read_text()
    # black words of the picture would not be seen on a dark page
    assert "svg text { fill: currentColor; }" in text
    # nothing is fetched: links are of the page itself, or names of XML's vocabularies
    assert not re.findall(r"""(?:src|href)=["'](?!#)[^"']*""", re.sub(r'xlink:href="#[^"]*"', "", text))
    assert not re.findall(r"url\((?!#)|@import|<script|<link", text)
    picture = ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.DOTALL)[0])
    words = "".join(picture.itertext())
    assert "evolutionary, 65.0 %" in words
    assert "var(--evolutionary)" in text
    assert "prefers-color-scheme: dark" in text
    assert len(re.findall(r"<td class=\"name\">digits</td>", text)) == 4
    assert "+15.0\n(-48.5 to +78.5)" in text
    for place, each in FOUR:
        assert f"<td>{place.seed}</td><td>{each.accuracy * 100:.2f}</td>" in text
    assert RECIPE.to_toml().splitlines()[-1] in text


def test_a_report_of_an_unfinished_comparison_says_how_many_runs_are_missing_and_escapes_names():
    plan = Plan(recipe=RECIPE, data=("folder/<b>",), nets=("resnet10",), methods=("shortcut",), seeds=(0, 1))
    place = plan.cells()[0]
    text = html(comparison((place, run(place, 0.5, plan=plan)), plan=plan))
    assert "1 of 2 runs are missing" in text
    assert "<b>" not in text
    assert "folder/&lt;b&gt;" in text


def test_the_methods_in_the_file_are_those_that_ran(tmp_path):
    plan = Plan(
        recipe=RECIPE.replace(coefficient=Constant(value=0.5)), data=("digits",), nets=("resnet10",), seeds=(0,)
    )
    content = Comparison(plan=plan).to_dict()["methods"]
    assert content["vanilla"] is None
    assert content["shortcut"]["value"] == content["evolutionary"]["value"] == 0.5
