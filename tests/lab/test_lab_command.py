import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest
import torch

import sbp_torch
from sbp_core import Constant, Cosine, Evolutionary, Following, LIFSpec, LossSpec, Triangle, network_spec, registry
from sbp_lab import comparison, recipes, trainers, training
from sbp_lab.cli.commands.demo import COMPARED
from sbp_lab.cli.options import changed, parsed
from sbp_lab.events import Frames
from sbp_lab.optimizers import SGD, AdamW
from sbp_lab.recipe import Recipe
from sbp_lab.record import Run
from tests.lab.command import TINY, accuracy_of, made, sbp, words
from tests.lab.test_lab_data_mnist import write as write_mnist


# compiling takes the time in tf and jax, so one method has to do there
@pytest.mark.parametrize(
    ("backend", "methods"),
    [
        ("torch", ["vanilla", "shortcut", "evolutionary"]),
        ("tf", ["evolutionary"]),
        ("jax", ["evolutionary"]),
    ],
)
def test_compare_trains_the_methods_and_leaves_a_table_a_file_and_a_plot(backend, methods, tmp_path):
    out = tmp_path / "out"
    settings = ["--backend", backend, "--methods", ",".join(methods), "--seeds", "1", "--epochs", "1", "--jobs", "1"]
    done = sbp("compare", *settings, "--out", str(out), *TINY)
    assert done.exit_code == 0, done.output
    for method in methods:
        assert accuracy_of(method, done.output), done.output
    content = json.loads((out / "results.json").read_text())
    assert content["complete"] is True
    assert content["recipe"]["backend"] == backend
    assert [run["method"] for run in content["runs"]] == methods
    for line in content["runs"]:
        run = Run.read(out / line["folder"])
        assert 0.0 <= run.epochs[0].accuracy == line["accuracy"] <= 1.0
        assert run.epochs[0].last_gradient > 0.0
        assert run.step_ms > 0.0
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "report.html").read_text()


def test_processes_side_by_side_find_what_one_process_finds_and_checkpoints_of_what_ended_are_kept_if_asked(tmp_path):
    found = {}
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        arguments = ["--methods", "vanilla,evolutionary", "--seeds", "1", "--epochs", "1", "--jobs", jobs]
        arguments += ["--keep-checkpoints"] if jobs == "2" else []
        done = sbp("compare", *arguments, "--out", str(out), *TINY)
        assert done.exit_code == 0, done.output
        assert len(list(out.glob("runs/**/last.safetensors"))) == 2
        assert len(list(out.glob("runs/**/checkpoint*"))) == (2 if jobs == "2" else 0)
        found[jobs] = json.loads((out / "results.json").read_text())["runs"]
    assert [run["method"] for run in found["2"]] == ["vanilla", "evolutionary"]
    for alone, beside in zip(found["1"], found["2"], strict=True):
        # the number of threads may change the order of a sum
        assert alone["initial_loss"] == pytest.approx(beside["initial_loss"], rel=1e-5)


def test_train_writes_a_line_for_every_epoch(tmp_path):
    done = sbp("train", "--method", "shortcut", "--epochs", "2", "--out", str(tmp_path / "out"), *TINY)
    assert done.exit_code == 0, done.output
    assert re.findall(r"^epoch (\d): loss \d", done.output, re.MULTILINE) == ["1", "2"]


def test_gradients_shows_every_convolution_and_the_head(tmp_path):
    out = tmp_path / "out"
    done = sbp("gradients", "--out", str(out), *TINY)
    assert done.exit_code == 0, done.output
    norms = json.loads((out / "gradients.json").read_text())["norms"]
    assert set(norms) == {"vanilla", "shortcut", "evolutionary"}
    # ResNet-10: the stem, 8 convolutions, 3 on the identity path, the head
    assert len(norms["vanilla"]) == 13
    for layer in norms["vanilla"]:
        assert layer in done.output
    assert (out / "gradients.png").read_bytes().startswith(b"\x89PNG")


def test_what_follows_the_last_tap_gets_no_gradient_but_the_main_outputs(tmp_path):
    # losses apart: the branches' residuals reach their own stage and what is before it, never layer4 or the head
    out = tmp_path / "out"
    done = sbp("gradients", "--combine", "losses", "--taps", "layer1", "--out", str(out), *TINY)
    assert done.exit_code == 0, done.output
    norms = json.loads((out / "gradients.json").read_text())["norms"]
    assert norms["shortcut"]["head"] == pytest.approx(norms["vanilla"]["head"], rel=1e-5)
    assert norms["shortcut"]["layer2.0.conv1"] == pytest.approx(norms["vanilla"]["layer2.0.conv1"], rel=1e-5)
    assert norms["shortcut"]["stem.conv"] != pytest.approx(norms["vanilla"]["stem.conv"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "option", "message"),
    [
        (["train", "nowhere.toml"], "RECIPE", "there is no file nowhere.toml"),
        (["train", "digit"], "RECIPE", "got 'digit'; did you mean 'digits'?"),
        (["train", "--backend", "abacus"], "--backend", "one of 'jax', 'keras', 'tf', 'torch'; got 'abacus'"),
        (["train", "--net", "resnet9"], "--net", "got 'resnet9'; did you mean"),
        (["train", "--data", "letters"], "--data", "got 'letters'"),
        (["train", "--method", "vanila"], "--method", "got 'vanila'; did you mean 'vanilla'?"),
        (["compare", "--methods", "vanilla,evolutionry"], "--methods", "did you mean 'evolutionary'?"),
        (["compare", "--methods", "vanilla,shortcut,vanilla"], "--methods", "must not repeat a name"),
        (["compare", "--methods", ""], "--methods", "'vanilla', 'weak-to-strong'; got ''"),
        (["compare", "--net", "resnet10,resnet9"], "--net", "got 'resnet9'; did you mean"),
        (["compare", "--data", "digits,letters"], "--data", "got 'letters'"),
        (["compare", "--seeds", "0"], "--seeds", "seeds must be at least 1, got 0"),
        (["compare", "--seeds", "-3"], "--seeds", "seeds must be at least 1, got -3"),
        (["compare", "--seeds", "0,0"], "--seeds", "seeds must not repeat a name"),
        (["compare", "--seeds", "two"], "--seeds", "integer"),
        (["compare", "--jobs", "-1"], "--jobs", "jobs must be at least 0, got -1"),
        (["train", "--seed", "-1"], "--seed", "seed must be at least 0, got -1"),
        (["train", "--epochs", "0"], "--epochs", "epochs must be at least 1, got 0"),
        (["train", "--epochs", "two"], "--epochs", "two"),
        (["train", "--batch-size", "0"], "--batch-size", "batch_size must be at least 1, got 0"),
        (["train", "--batch-size", "1438"], "--batch-size", "batch_size must be at most 1437"),
        (["gradients", "--batch-size", "1438"], "--batch-size", "batch_size must be at most 1437"),
        (["train", "--net", "vgg11"], "--net", "layer 'stage4.pool': a window of 2 with padding 0 does not fit"),
        (["train", "--net", "mine:"], "--net", "must be a network of the zoo or module:function, got 'mine:'"),
        (["train", "--width", "0"], "--width", "width must be at least 1, got 0"),
        (["train", "-T", "0"], "--time-steps", "time_steps must be at least 1, got 0"),
        (["train", "--combine", "sum"], "--combine", '"sum"'),
        (["train", "--loss.combine", "sum"], "--loss.combine", '"sum"'),
        (["train", "--taps", "layr1"], "--taps", "tap 'layr1' does not exist; did you mean 'layer1'"),
        (["train", "--taps", "layer1,layer1"], "--taps", "taps must not repeat a name"),
        (["train", "--taps", ""], "--taps", "taps must name at least one block"),
        (["train", "--surrogate", "heaviside"], "--neuron.surrogate", "surrogate must be one of 'rectangle'"),
        (["train", "--surrogate", "straight_through:2"], "--neuron.surrogate", "'straight_through' has no width"),
        (["train", "--surrogate", "triangle:wide"], "--neuron.surrogate", "NAME:HALF_WIDTH, a number; got"),
        (["train", "--surrogate", "triangle:0"], "--neuron.surrogate", "half_width must be greater than 0, got 0.0"),
        (["train", "--surrogate", "triangle:nan"], "--neuron.surrogate", "half_width must be finite, got nan"),
        (["train", "--learning-rate", "0"], "--learning-rate", "learning_rate must be greater than 0, got 0.0"),
        (["train", "--learning-rate", "nan"], "--learning-rate", "learning_rate must be finite, got nan"),
        (["train", "--weight-decay", "1.5"], "--optimizer.weight-decay", "weight_decay must lie in [0, 1], got 1.5"),
        (["train", "--optimizer", "sdg"], "--optimizer", "got 'sdg'; did you mean 'sgd'?"),
        (["train", "--optimizer.momentum", "0.5"], "--optimizer.momentum", "unknown field 'momentum' for 'adamw'"),
        (["train", "--augment", "flipp"], "--augment", "augment[0] must be one of"),
        (["train", "--augment", "event_flip"], "--augment", "augment must not have 'event_flip'"),
        (["gradients", "--net", "mine:net", "--taps", "a"], "--net", "net must be one of the zoo for this"),
        (["train", "--augment", "[1,"], "--augment", "augment must be written as in TOML, got '[1,'"),
        (["train", "--frames.steps", "2"], "--frames", "frames must be None for digits, whose samples are images"),
        (["train", "--method", "vanilla", "--coefficient.initial", "1"], "--coefficient.initial", "has no branches"),
        (["train", "--resume", "nowhere"], "--resume", "there is no folder nowhere"),
        (["train", "--resume", "."], "--resume", "there is no file recipe.toml"),
        (["compare", "--resume", "nowhere"], "--resume", "there is no folder nowhere"),
        (["compare", "--resume", "."], "--resume", "there is no file recipe.toml"),
        (["train", "digits", "--resume", "nowhere"], None, "RECIPE must be left out with --resume"),
        (["train", "--epoch", "3"], None, "--epoch. Did you mean --epochs?"),
        (["trian"], None, 'Unknown command "trian". Did you mean "train"?'),
        (["recipes", "digit"], "NAME", "did you mean 'digits'?"),
        (["inspect", "resnet18", "--images", "0"], "--images", "images must be at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_answered_before_any_training_with_its_option_its_value_and_what_is_allowed(
    arguments, option, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainers, "load", None)
    monkeypatch.chdir(tmp_path)
    done = sbp(*arguments)
    assert done.exit_code == 2, done.output
    assert message in words(done), words(done)
    if option is not None:
        # a short name may be answered with the long one
        shown = re.search(r'Invalid value (?:"[^"]*" )?for ([^ :.]+(?:\.[\w-]+)*)', words(done))
        assert shown, words(done)
        assert shown[1] == option, words(done)
    assert list(tmp_path.iterdir()) == []


RESNET = network_spec("resnet18").neuron


@pytest.mark.parametrize(
    ("changes", "field", "wanted"),
    [
        ({"epochs": 3}, "epochs", 3),
        ({"taps": "layer1,layer2"}, "taps", ("layer1", "layer2")),
        ({"taps": "none"}, "taps", None),
        ({"size": "14,12"}, "size", (14, 12)),
        ({"milestones": "0.25,0.5"}, "milestones", (0.25, 0.5)),
        ({"milestones": "[0.25, 0.5]"}, "milestones", (0.25, 0.5)),
        ({"optimizer": "sgd"}, "optimizer", SGD()),
        ({"optimizer": '{kind = "sgd", nesterov = true}'}, "optimizer", SGD(nesterov=True)),
        ({"optimizer": "sgd", "optimizer.momentum": 0.5}, "optimizer", SGD(momentum=0.5)),
        ({"optimizer.weight_decay": 0.5}, "optimizer", AdamW(weight_decay=0.5, beta1=0.8)),
        ({"loss.combine": "losses"}, "loss", LossSpec(combine="losses")),
        ({"coefficient": "cosine"}, "coefficient", Cosine()),
        ({"coefficient.initial": 0.5}, "coefficient", Evolutionary(initial=0.5)),
        (
            {"method": "following", "coefficient.measure": "share"},
            "coefficient",
            Following(initial=1.0, measure="share"),
        ),
        ({"method": "shortcut", "coefficient.value": 0.5}, "coefficient", Constant(value=0.5)),
        # the network's own neuron, but for what is given
        ({"neuron.decay": 0.25}, "neuron", RESNET.replace(decay=0.25)),
        ({"neuron.reset": "none"}, "neuron", RESNET.replace(reset="none")),
        ({"net": "sew_dvs", "neuron.decay": 0.25}, "neuron", network_spec("sew_dvs").neuron.replace(decay=0.25)),
        ({"neuron.surrogate": "triangle:2"}, "neuron", LIFSpec(surrogate=Triangle(width=4.0))),
        ({"frames": "frames", "time_steps": 6}, "frames", Frames(steps=6)),
        ({"frames.by": "count"}, "frames", Frames(by="count", steps=4)),
        ({"frames.steps": 9}, "time_steps", 9),
    ],
)
def test_an_option_changes_its_field_and_leaves_the_others_as_the_recipe_has_them(changes, field, wanted):
    base = Recipe(net="resnet18", width=8, optimizer=AdamW(beta1=0.8), seed=7)
    found = changed(base, parsed(changes))
    assert getattr(found, field) == wanted
    if {name.partition(".")[0] for name in changes} == {field} and field != "frames":
        assert found.replace(**{field: getattr(base, field)}) == base


def test_a_recipe_of_a_file_is_run_with_the_options_on_top(tmp_path):
    (tmp_path / "mine.toml").write_text('net = "resnet10"\nwidth = 2\ntime_steps = 1\nbatch_size = 700\nepochs = 9\n')
    done = sbp("train", str(tmp_path / "mine.toml"), "--epochs", "1", "--seed", "5", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    wanted = Recipe(net="resnet10", width=2, time_steps=1, batch_size=700, epochs=1, seed=5)
    assert Run.read(tmp_path / "out").recipe == wanted
    assert recipes.read(tmp_path / "out" / "recipe.toml") == wanted
    assert (tmp_path / "out" / "training.png").read_bytes().startswith(b"\x89PNG")


def test_every_field_of_a_recipe_has_an_option_with_a_text():
    done = sbp("train", "--help")
    assert done.exit_code == 0
    for field in fields(Recipe):
        name = re.escape("--" + field.name.replace("_", "-"))
        assert re.search(rf"{name}(?: -T)?(?: --no-compile)?(?: [A-Z]+)? +\S", done.output), field.name


def test_help_loads_no_framework_and_nothing_that_draws():
    code = "import sys; from sbp_lab.cli import _commands; _commands(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cyclopts" in loaded
    assert not {"torch", "tensorflow", "keras", "jax", "matplotlib", "scipy", "sklearn", "grain"} & set(loaded)


def test_recipes_are_listed_with_a_line_each_and_printed_as_toml_that_reads_back():
    done = sbp("recipes")
    assert done.exit_code == 0
    for name in recipes.names():
        assert re.search(rf"^{re.escape(name)} +\S", done.output, re.MULTILINE), name
    assert Recipe.from_toml(sbp("recipes", "digits").output) == recipes.load("digits")


def test_a_comparison_goes_on_where_it_was_and_takes_more_seeds(tmp_path, monkeypatch):
    out = str(tmp_path / "out")
    begun = sbp("compare", "--methods", "vanilla", "--seeds", "1", "--epochs", "1", "--jobs", "1", "--out", out, *TINY)
    assert begun.exit_code == 0, begun.output
    trained = []

    def train(recipe, folder, **_):
        trained.append((recipe.method, recipe.seed))
        return made(recipe, folder)

    monkeypatch.setattr(comparison, "train", train)
    again = sbp("compare", "--resume", out, "--methods", "vanilla,evolutionary", "--seeds", "2", "--jobs", "1")
    assert again.exit_code == 0, again.output
    assert "4 runs; 1 are done" in again.output
    # one seed after the other
    assert trained == [("evolutionary", 0), ("vanilla", 1), ("evolutionary", 1)]
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (content["complete"], len(content["runs"]), content["seeds"]) == (True, 4, [0, 1])
    trained.clear()
    assert sbp("compare", "--resume", out, "--jobs", "1").exit_code == 0
    assert trained == []
    other = sbp("compare", "--resume", out, "--epochs", "2")
    assert other.exit_code == 2
    assert "was run with epochs=1, and the comparison asks for 2" in words(other)


def test_methods_nets_and_seeds_are_crossed_each_in_a_folder_of_its_own(tmp_path, monkeypatch):
    def train(recipe, folder, **_):
        return made(recipe, folder)

    monkeypatch.setattr(comparison, "train", train)
    arguments = ["--net", "resnet10,ms_resnet18", "--methods", "vanilla,shortcut", "--seeds", "3,5", "--jobs", "1"]
    done = sbp("compare", *arguments, "--width", "2", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    found = {
        path.parent.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("runs/**/results.json")
    }
    assert found == {
        f"runs/digits/{net}/{method}/seed{seed}"
        for net in ("resnet10", "ms_resnet18")
        for method in ("vanilla", "shortcut")
        for seed in (3, 5)
    }
    assert re.search(r"^ *resnet10 +vanilla +50\.0", done.output, re.MULTILINE), done.output


def test_the_demo_takes_fashion_mnist_where_it_is_and_digits_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "train", lambda recipe, folder, **_: made(recipe, folder))
    write_mnist(tmp_path / "data" / "fashion-mnist", copies=10)
    for folder, recipe in (("data", recipes.load("demo")), ("none", recipes.load("digits"))):
        out = tmp_path / f"out-{folder}"
        done = sbp("demo", "--data-folder", str(tmp_path / folder), "--jobs", "1", "--out", str(out))
        assert done.exit_code == 0, done.output
        assert ("scikit-learn's digits instead" in done.output) == (folder == "none")
        content = json.loads((out / "results.json").read_text())
        assert content["data"] == [recipe.data]
        assert Recipe.from_dict(content["recipe"]) == recipe
        assert (len(content["runs"]), content["seeds"]) == (3 * len(COMPARED), [0, 1, 2])


def test_a_run_goes_on_in_its_folder_with_its_own_recipe_also_on_another_backend(tmp_path, monkeypatch):
    seen = []

    def train(recipe, folder, *, resume, **_):
        seen.append((recipe, folder, resume))
        return made(recipe, folder)

    monkeypatch.setattr(training, "train", train)
    out = tmp_path / "out"
    recipe = Recipe(net="resnet10", width=2, time_steps=1, batch_size=700, epochs=1, seed=5)
    out.mkdir()
    (out / "recipe.toml").write_text(recipe.to_toml())
    assert sbp("train", "--resume", str(out), "--backend", "jax").exit_code == 0
    assert seen == [(recipe.replace(backend="jax"), out, True)]
    refused = sbp("train", "--out", str(out))
    assert refused.exit_code == 2
    assert f"already holds results.json; name another folder, or --resume {out} to go on" in words(refused)


def test_backends_lists_what_is_installed_with_versions_devices_and_what_computes_a_neuron():
    done = sbp("backends")
    assert done.exit_code == 0, done.output
    words = set(re.findall(r"\w+", done.output))
    assert {sbp_torch.implementation_for(torch.empty(4, 1 << 16)), "unrolled", "scan"} <= words
    for name in ("torch", "tf", "jax", "keras"):
        assert re.search(rf"│ {name} +│", done.output), done.output
    assert importlib.metadata.version("torch") in done.output


@pytest.mark.parametrize("command", ["train", "compare", "gradients"])
@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [("torch", "numba", "torch"), ("tf", "keras", "tf"), ("jax", "optax", "jax"), ("keras", "keras", "tf")],
)
def test_what_a_backend_lacks_is_answered_with_its_extra(command, backend, package, extra, monkeypatch, tmp_path):
    monkeypatch.setattr(trainers, "find_spec", lambda name: None if name == package else True)
    monkeypatch.chdir(tmp_path)
    done = sbp(command, "--backend", backend)
    assert done.exit_code == 2, done.output
    assert f'{package} is not installed; in a checkout of sbp: pip install ".[{extra}]"' in words(done)
    assert "Invalid value for --backend" in words(done)
    assert list(tmp_path.iterdir()) == []


def test_backends_says_what_to_install_for_those_that_are_not_there(monkeypatch):
    def missing(name):
        raise registry.missing_framework("PyTorch", "torch", ModuleNotFoundError(name="torch"))

    monkeypatch.setattr(registry, "names", lambda: ["torch"])
    monkeypatch.setattr(registry, "load", missing)
    done = sbp("backends")
    assert done.exit_code == 0, done.output
    assert 'in a checkout of sbp: pip install ".[torch]"' in words(done)
