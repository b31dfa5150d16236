"""``sbp doctor``: what it says, writes and tries, on networks that are known to be ill or well."""

import html
import json

import numpy as np
import pytest

from sbp_core import LIFSpec
from sbp_core.specs.networks.blocks import with_blocks
from sbp_lab.data import open_data
from sbp_lab.diagnosis import gradient_norms
from sbp_lab.doctor import REMEDIES, Trial, Tried, cure, examine, figure2, ranked, start, train
from sbp_lab.recipe import Recipe
from tests.lab.command import sbp, words
from tests.signals import assert_same

SMALL = {"net": "resnet20", "width": 4, "time_steps": 2, "batch_size": 16, "method": "vanilla"}
BY_NAME = {remedy.name: remedy for remedy in REMEDIES}


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


@pytest.fixture(scope="module")
def case(digits):
    return start(Recipe(**SMALL), digits)


@pytest.fixture(scope="module")
def found(case, digits):
    return examine(case, digits, batches=2)


def test_the_command_says_the_finding_first_and_writes_figures_and_picture(tmp_path):
    options = ["mlp", "-T", "1", "--method", "vanilla", "--batch-size", "16"]
    more = ["--batches", "2", "--after", "1", "--try", "1", "--figure2", "2", "--slopes", "2"]
    done = sbp("doctor", *options, *more, "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert written["schema"] == "sbp.doctor/1"
    assert done.output.startswith(written["diagnosis"]["findings"][0][:60])
    assert written["tried"][0]["remedy"] == "as it is"
    # of the first and the last layer; the second one is silent, so that the last gets no gradient
    assert [each["descent"] is not None for each in written["diagnosis"]["weights"]] == [True, False, False]
    assert written["remedies"]
    assert [row["remedy"] for row in written["tried"][1:]] == written["remedies"]
    assert all(row["steps"] == 1 for row in written["tried"])
    assert (tmp_path / "out" / "doctor.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = (tmp_path / "out" / "doctor.html").read_text()
    told = [html.escape(said) for said in [*written["diagnosis"]["findings"], *written["remedies"]]]
    assert all(said in page for said in told)
    assert page.index(told[0]) < page.index("<h2>")
    # nothing else is needed: the pictures are in it
    assert page.count('src="data:image/png;base64,') == 2
    assert "http" not in page
    arrays = np.load(tmp_path / "out" / "figure2.npz")
    assert sorted(arrays) == sorted(f"{m}/{step}" for m in ("vanilla", "shortcut", "evolutionary") for step in range(3))
    shown = written["figure2"]["shortcut"]["2"]
    assert shown["norm"] == pytest.approx(np.linalg.norm(arrays["shortcut/2"]))
    assert shown["quantiles"]["0.5"] == pytest.approx(np.median(arrays["shortcut/2"]))
    assert "doctor.html, doctor.png, figure2.png, figure2.npz and doctor.json" in words(done)
    assert sbp("doctor", *options, "--out", str(tmp_path / "out")).exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batches", "1"], "--batches: batches must be at least 2"),
        (["--try", "-1"], "--try: try must be at least 0"),
        (["--batches", "200", "--width", "4", "-T", "1"], "--batches: batches must be at most"),
    ],
)
def test_mistakes_are_named(options, said, tmp_path):
    done = sbp("doctor", *options, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_branches_are_measured_with_the_network(digits):
    found = examine(start(Recipe(**SMALL | {"method": "shortcut"}), digits), digits, batches=2)
    assert {"main.stem.conv", "branches.layer1"} <= {weights.path for weights in found.weights}


@pytest.mark.parametrize("backend", ["jax", "tf"])
def test_the_frameworks_figures_are_the_same(digits, backend):
    pytest.importorskip({"jax": "jax", "tf": "tensorflow"}[backend])
    recipe = Recipe(net="mlp", time_steps=2, batch_size=16, method="shortcut")
    wanted, found = (
        examine(start(recipe.replace(backend=name), digits), digits, batches=2) for name in ("torch", backend)
    )
    assert_same(found, wanted)


def test_weights_after_training_are_those_that_are_measured(case, digits, found):
    trial, weights = train(case, digits, steps=2)
    assert weights.keys() == case.weights.keys()
    assert len(trial.losses) == 2
    after = examine(case, digits, batches=2, state=weights)
    assert after.loss != found.loss
    # the first step's loss is that of the first batch, the same in training and in the diagnosis
    first = examine(case, digits, batches=2)
    assert str(first) == str(found)


def test_a_silent_network_is_said_to_be_silent_and_asks_for_a_lower_threshold(digits):
    silent = start(Recipe(**SMALL, neuron=LIFSpec(threshold=4.0)), digits)
    found = examine(silent, digits, batches=2)
    assert "hardly anything fires" in found.findings[0]
    assert [remedy.name for remedy, _ in ranked(silent, found)][:2] == ["calibrated start", "threshold halved"]
    lower = BY_NAME["threshold halved"].apply(silent, digits)
    assert lower.spec.neuron.threshold == 2.0
    rates = [
        np.mean([np.mean(neuron.rate) for neuron in each.neurons])
        for each in (found, examine(lower, digits, batches=2))
    ]
    assert rates[1] > 3 * rates[0]


def test_a_calibrated_start_keeps_near_inputs_near(case, digits, found):
    changed = BY_NAME["calibrated start"].apply(case, digits)
    assert changed.recipe.start == "calibrated"
    after = examine(changed, digits, batches=2)
    assert found.neurons[-1].kept < 0.15
    assert after.neurons[-1].kept > 0.4
    ends = [name for name in changed.weights if name.endswith(".bn2.weight")]
    assert len(ends) == 9
    assert all((changed.weights[name] == np.float32(0.1)).all() for name in ends)
    assert (changed.weights["layer1.0.bn1.weight"] == 1).all()


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_remedy_makes_a_network_that_trains(case, digits, name):
    trial, _ = train(BY_NAME[name].apply(case, digits), digits, steps=1, test=16)
    assert np.isfinite(trial.loss)


def test_remedies_leave_the_case_as_it_was(case, digits):
    before = {name: value.copy() for name, value in case.weights.items()}
    for remedy in REMEDIES:
        remedy.apply(case, digits)
    assert all(np.array_equal(before[name], value) for name, value in case.weights.items())


def test_fix_writes_the_recipe_that_makes_the_network_that_did_best(tmp_path):
    options = ["--net", "mlp", "-T", "1", "--method", "vanilla", "--batch-size", "16", "--neuron.threshold", "3"]
    done = sbp("doctor", *options, "--batches", "2", "--try", "30", "--fix", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "doctor.json").read_text())
    tried = {row["remedy"]: row["accuracy"] for row in written["tried"]}
    best = written["fix"]["best"]
    assert tried[best] == max(tried.values()) > tried["as it is"]
    recipe = Recipe.from_toml((tmp_path / "out" / "recipe.toml").read_text())
    assert recipe != Recipe.from_dict(written["recipe"])
    assert written["fix"]["after"]["loss"] < written["fix"]["before"]["loss"]
    assert "The recipe with it: sbp train" in done.output


def test_what_no_recipe_can_hold_is_not_the_fix(case, digits):
    trial, better = (Trial(steps=1, losses=(1.0,), accuracy=accuracy) for accuracy in (0.1, 0.9))
    # the recipe does not say its neuron
    other = case._replace(spec=case.spec.replace(neuron=LIFSpec(threshold=0.9)))
    tried = [Tried("as it is", case, trial, case.weights), Tried("a neuron", other, better, other.weights)]
    found = cure(case, digits, tried, batches=2)
    assert found.best is tried[0]
    assert found.after is found.before
    blocks = BY_NAME["SEW blocks"].apply(case, digits)
    assert blocks.spec == with_blocks(case.spec, "sew")
    tried.append(Tried("SEW blocks", blocks, better, blocks.weights))
    assert cure(case, digits, tried, batches=2).best is tried[2]


def test_the_first_layers_gradient_begins_as_that_of_the_gradients_command(digits):
    recipe = Recipe(**SMALL)
    found = figure2.first_layer(recipe, digits, steps=0)
    norms = gradient_norms(recipe, list(found), digits)
    for method, steps in found.items():
        assert list(steps) == [0]
        assert np.linalg.norm(steps[0]) == pytest.approx(norms[method]["stem.conv"], rel=1e-5)
    assert norms["vanilla"]["stem.conv"] != norms["shortcut"]["stem.conv"]
