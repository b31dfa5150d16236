"""Methods: what each states reaches the trained network, they compose, and a file of one's own is as good."""

import json
import re

import numpy as np
import pytest

from sbp_core import Constant, Evolutionary, LossSpec, network_spec
from sbp_core.specs.networks.blocks import with_blocks
from sbp_lab.cli.progress import line
from sbp_lab.data import open_data
from sbp_lab.methods import METHODS, PAPERS, method_of, read_method
from sbp_lab.recipe import Recipe
from sbp_lab.results import Cell, Comparison, Plan
from sbp_lab.training import train
from sbp_lab.training.setup import build, network_of, options_of
from tests.lab.command import sbp

DIGITS = open_data("digits")
TINY = {"net": "resnet10", "width": 2, "time_steps": 2, "batch_size": 8}
SUMMED = LossSpec(combine="logits")
APART = LossSpec(combine="losses")
# of each method: the network's class, its fields, those of its neuron, its loss and the coefficient at the first step
STATED = {
    "vanilla": ("resnet", {}, {}, SUMMED, None),
    "shortcut": ("resnet", {}, {}, SUMMED, 1.0),
    "evolutionary": ("resnet", {}, {}, SUMMED, 0.25),
    "losses": ("resnet", {}, {}, APART, 1.0),
    "following": ("resnet", {}, {}, APART, 1.0),
    "distilled": ("resnet", {}, {}, APART.replace(distillation=0.5), 1.0),
    "reliable": ("resnet", {}, {}, APART.replace(distillation=0.3, teacher="right"), 1.0),
    "tet": ("resnet", {}, {}, LossSpec(combine="logits", per_step=True), None),
    "staged": ("resnet", {}, {}, APART.replace(per_step=True), 1.0),
    "strong-to-weak": ("resnet", {}, {}, SUMMED.replace(step_distillation=1.0, temperature=2.0), None),
    "weak-to-strong": (
        "resnet",
        {},
        {},
        SUMMED.replace(step_distillation=1.0, step_teacher="weak", temperature=2.0),
        None,
    ),
    "right-to-wrong": (
        "resnet",
        {},
        {},
        SUMMED.replace(step_distillation=1.0, step_teacher="right", temperature=2.0),
        None,
    ),
    "plif": ("resnet", {}, {"learn_decay": True, "input_gain": "complement"}, SUMMED, None),
    "clif": ("resnet", {}, {"complementary_state": True, "reset": "soft"}, SUMMED, None),
    "imp": ("resnet", {}, {"learn_initial": True}, SUMMED, None),
    "mp-init": ("resnet", {}, {"initial_follows": True}, SUMMED, None),
    "mpd-agl": ("resnet", {}, {"width_follows": True}, SUMMED, None),
    "detached": ("resnet", {}, {"detach_reset": True}, SUMMED, None),
    "tdbn": ("resnet", {"norm": "tdbn"}, {}, SUMMED, None),
    "tebn": ("resnet", {"norm": "tebn"}, {}, SUMMED, None),
    "sew": ("sew_resnet", {"join": "add"}, {}, SUMMED, None),
    "ms": ("ms_resnet", {"downsample": "stride", "residual_scale": 0.0}, {}, SUMMED, None),
    "max": ("ms_resnet", {"downsample": "max", "residual_scale": 1.0}, {}, SUMMED, None),
    "identity": ("resnet", {}, {"threshold": 0.5}, SUMMED, None),
    "calibrated": ("resnet", {}, {"threshold": 0.5}, SUMMED, None),
    "deep": ("ms_resnet", {"downsample": "stride", "residual_scale": 0.0}, {}, SUMMED, None),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_states_reaches_network_loss_and_branches(name):
    kind, fields, neuron, loss, coefficient = STATED[name]
    recipe = Recipe(**TINY, method=name)
    spec = network_of(recipe, DIGITS, (8, 8, 1))
    plain = network_of(Recipe(**TINY, method="vanilla"), DIGITS, (8, 8, 1))
    assert spec.kind == kind
    assert {each: getattr(spec, each) for each in fields} == fields
    assert spec.neuron == plain.neuron.replace(**neuron)
    assert (spec.depths, spec.widths, spec.time_steps) == (plain.depths, plain.widths, 2)
    options = options_of(recipe, spec, events=False)
    assert options.loss == loss
    assert options.taps == (() if coefficient is None else spec.default_taps)
    assert (recipe.schedule and recipe.schedule.resolve(total_steps=10**9)(0)) == pytest.approx(coefficient)


def after_two_steps(recipe):
    built = build(recipe, DIGITS)
    for step, (images, labels) in enumerate(built.loader.epoch(1), start=1):
        built.trainer.train_step(images, labels, recipe.schedule.resolve(total_steps=4)(step - 1), 0.01, step)
        if step == 2:
            return built.trainer.state()
    return None


@pytest.mark.parametrize(("method", "said"), [("vanilla", None), ("evolutionary", "coefficient 0,"), ("tet", None)])
def test_only_a_run_with_branches_tells_their_coefficient(method, said, tmp_path):
    recipe = Recipe(net="mlp", time_steps=1, batch_size=512, epochs=1, method=method)
    (epoch,) = train(recipe, tmp_path / "run", source=DIGITS).epochs
    told = line(epoch)
    assert ("coefficient" in told) == (said is not None)
    assert said is None or said in told


def test_methods_compose_to_the_same_bits_as_the_fields_they_stand_for():
    composed = Recipe(**TINY, method="losses+sew+tet+tebn+plif")
    by_hand = Recipe(
        **TINY,
        method="evolutionary",
        coefficient=Evolutionary(initial=1.0),
        loss=LossSpec(combine="losses", per_step=True),
        norm="tebn",
        blocks="sew",
        neuron=network_spec("resnet18").neuron.replace(learn_decay=True, input_gain="complement"),
    )
    found, expected = after_two_steps(composed), after_two_steps(by_hand)
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("first", METHODS)
def test_every_two_methods_train_together_or_it_is_said_why_not(first):
    names = list(METHODS)
    for second in names[names.index(first) + 1 :]:
        try:
            recipe = Recipe(**TINY, method=f"{first}+{second}")
        except ValueError as error:
            assert re.match(f"method must not state .* twice; '{first}' and '{second}' both do", str(error))  # noqa: PT017
            continue
        assert not set(METHODS[first].states) & set(METHODS[second].states)
        built = build(recipe, DIGITS)
        images, labels = next(iter(built.loader.epoch(1)))
        coefficient = 0.0 if recipe.schedule is None else recipe.schedule.resolve(total_steps=4)(0)
        result = built.trainer.train_step(images, labels, coefficient, 0.01, 1)
        assert np.isfinite([result.loss, result.gradient]).all(), recipe.method


def test_what_is_the_recipes_own_goes_before_what_the_method_states():
    recipe = Recipe(method="evolutionary+tebn+sew", coefficient=Constant(value=0.5), norm="batch", blocks="ms").applied
    assert (recipe.coefficient, recipe.norm, recipe.blocks) == (Constant(value=0.5), "batch", "ms")
    assert recipe.applied == recipe
    # and of another method the coefficient is kept where there are branches
    assert recipe.with_method("losses").coefficient == Constant(value=0.5)
    assert recipe.with_method("vanilla").coefficient is None


OWN = """
summary = "losses apart, distilled a little"
method = "sew"
coefficient = {kind = "evolutionary", initial = 0.5}
taps = ["layer2"]
norm = "tdbn"
[loss]
combine = "losses"
distillation = 0.1
[neuron]
threshold = 0.5
"""


def test_a_file_of_ones_own_says_what_its_fields_say(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    found = Recipe(**TINY).with_method(read_method(path))
    expected = Recipe(
        **TINY,
        method="evolutionary",
        coefficient=Evolutionary(initial=0.5),
        taps=("layer2",),
        norm="tdbn",
        blocks="sew",
        loss=LossSpec(combine="losses", distillation=0.1),
        neuron=network_spec("resnet18").neuron.replace(threshold=0.5),
    )
    assert found == expected


def test_a_comparison_keeps_a_method_of_ones_own(tmp_path):
    (tmp_path / "mine.toml").write_text(OWN)
    plan = Plan(
        recipe=Recipe(**TINY),
        data=("digits",),
        nets=("resnet10",),
        methods=("vanilla", "mine"),
        own=(read_method(tmp_path / "mine.toml"),),
    )
    Comparison(plan=plan).write(tmp_path)
    again = Comparison.read(tmp_path).plan
    cell = Cell("digits", "resnet10", "mine", 1)
    assert again.methods == plan.methods
    assert again.recipe_of(cell) == plan.recipe_of(cell)


def test_compare_takes_methods_at_once_and_files(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    settings = ["--net", "resnet10", "--width", "2", "-T", "1", "--epochs", "1", "--batch-size", "256"]
    done = sbp(
        "compare",
        "digits",
        *settings,
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--methods",
        f"vanilla,losses+sew,{path}",
        "--out",
        str(tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [each["method"] for each in written["summary"]] == ["vanilla", "losses+sew", "mine"]
    assert written["methods"]["mine"]["initial"] == 0.5
    assert (tmp_path / "out" / "runs" / "digits" / "resnet10" / "losses+sew" / "seed0").is_dir()


@pytest.mark.parametrize(
    ("name", "fields", "blocks"),
    [
        ("sew_resnet18", {"join": "and"}, "sew"),
        ("resnet19", {"hidden_initial": "kaiming"}, "standard"),
        ("ms_resnet34", {"scale": 0.25}, "ms"),
        ("max_resnet18", {}, "max"),
    ],
)
def test_a_network_that_has_the_blocks_stays_as_it_is(name, fields, blocks):
    spec = network_spec(name, **fields)
    assert with_blocks(spec, blocks) is spec


def test_blocks_keep_what_both_have():
    spec = with_blocks(network_spec("ms_resnet34"), "max")
    assert (spec.first_stage_stride, spec.downsample) == (2, "max")
    assert with_blocks(network_spec("max_resnet18"), "ms").downsample == "stride"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(method="losses+evolutionary"), "method must not state coefficient twice; 'losses' and 'evol"),
        (lambda: Recipe(method="losses+swe"), "method must be one of .*; got 'swe'; did you mean 'sew'"),
        (lambda: Recipe(method="tet", coefficient=Constant(value=1.0)), "coefficient must be left out with method="),
        (lambda: Recipe(net="mine:net", method="tet+sew"), "method='tet.sew' states the network's blocks, which"),
        (lambda: Recipe(net="mine:net", norm="tebn"), "norm must be left out with a network of your own"),
        (lambda: Recipe(norm="layer"), "norm must be one of 'batch', 'tdbn', 'tebn'; got 'layer'"),
        (lambda: network_of(Recipe(net="vgg11", method="sew"), DIGITS, (32, 32, 1)), "that is not residual, 'vgg'"),
        (lambda: network_of(Recipe(net="spikformer_cifar", norm="tebn"), DIGITS, (32, 32, 1)), "norm must be left out"),
        (lambda: with_blocks(network_spec("resnet19"), "sew"), "blocks='sew' must go with hidden=None, got 256"),
    ],
)
def test_what_does_not_go_together_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 3", "mine.toml: a field of a method must be one of 'blocks', .*; got 'epochs'"),
        ("norm = ", "mine.toml: Invalid value"),
        ('method = "losses+swe"', "mine.toml: method must be one of .*; did you mean 'sew'"),
        ('coefficient = {kind = "falling"}', "mine.toml: kind must be one of .*; got 'falling'"),
    ],
)
def test_a_file_that_is_no_method_is_named(text, message, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_method(tmp_path / "mine.toml")


def test_methods_are_listed_with_what_they_do():
    done = sbp("methods")
    assert done.exit_code == 0
    assert all(method.name in done.output and method.summary in done.output for method in METHODS.values())


def test_the_papers_methods_are_known():
    assert [method_of(name).branches for name in PAPERS] == [False, True, True]
