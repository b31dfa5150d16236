"""``sbp evaluate`` against the float64 reference: accuracy, classes, T and rates, from one set of weights."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sbp_core import weights as files
from sbp_core.backend import ShortcutNetwork
from sbp_core.reference.network import ReferenceNetwork
from sbp_core.specs.losses import LossSpec
from sbp_lab.data import ArraySplit, open_data
from sbp_lab.evaluation import evaluate
from sbp_lab.trained import open_trained, with_steps
from tests.lab.command import sbp
from tests.lab.small_run import small_run

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run") / "run")


def by_hand(file, time_steps, count):
    """Return logits, labels and mean rates of the first test images: normalised and run here, in NumPy."""
    saved = files.load(file)
    source = open_data("digits")
    train = source.train.images.astype(np.float64)
    images = (source.test.images[:count] - train.mean()) / train.std()
    spec = saved.spec.replace(time_steps=time_steps)
    network = ReferenceNetwork(
        ShortcutNetwork(spec, (), LossSpec()), {f"main.{n}": w.astype(np.float64) for n, w in saved.weights.items()}
    )
    network.counts = True
    output = network.forward(np.moveaxis(images, -1, 1), training=False)
    rates = {path: network.outputs[path].mean() for path, _ in spec.neurons()}
    return np.asarray(output.main), source.test.labels[:count], rates


def test_accuracy_and_rates_are_the_references_at_every_t(run):
    digits = open_data("digits")
    few = replace(digits, test=ArraySplit(digits.test.images[:60], digits.test.labels[:60]))
    found = evaluate(open_trained(run), few, time_steps=(1, 2, 5), batch_size=30)
    assert [each.time_steps for each in found.results] == [1, 2, 5]
    for each in found.results:
        logits, labels, _ = by_hand(run / "best.safetensors", each.time_steps, 60)
        right = logits.argmax(-1) == labels
        # float32 may break a tie in another way
        assert abs(each.accuracy - right.mean()) <= 1 / 60
        for label, accuracy in enumerate(each.per_class):
            assert accuracy == pytest.approx(right[labels == label].mean(), abs=1 / (labels == label).sum() + 1e-9)
        _, _, first = by_hand(run / "best.safetensors", each.time_steps, 30)
        assert each.firing_rates == pytest.approx(first, abs=1e-3)
        assert each.milliseconds > 0
    assert sum(found.class_counts) == 60
    assert len({each.accuracy for each in found.results}) > 1  # T matters here


def test_operations_grow_with_t_and_with_what_fires(run):
    one, two = evaluate(open_trained(run), open_data("digits"), time_steps=(1, 4)).results
    assert 0 < one.synaptic_operations < two.synaptic_operations
    assert 0 < one.energy < two.energy
    none = evaluate(open_trained(run), open_data("digits"), time_steps=(1,), count=0).results[0]
    assert none.synaptic_operations is None


def test_best_and_last_weights_are_those_of_their_files(run):
    assert open_trained(run, "last").file == run / "last.safetensors"
    assert open_trained(run).notes["epoch"] == "1"
    with pytest.raises(ValueError, match="which must be one of 'best', 'last'; got 'first'"):
        open_trained(run, "first")


def test_a_network_with_weights_of_each_step_says_which_t_is_possible(run, tmp_path):
    trained = open_trained(run)
    tebn = trained.spec.replace(norm="tebn")
    with pytest.raises(ValueError, match="time_steps must be 2, got 3: the network has weights of each step"):
        with_steps(tebn, 3)
    arrays = {name: np.ones(shape, np.float32) for name, shape in tebn.parameter_shapes().items()}
    found = evaluate(replace(trained, spec=tebn, weights=arrays), open_data("digits"), count=0)
    assert [each.time_steps for each in found.results] == [2]
    assert sorted(found.impossible) == [1, 3, 4, 5, 6, 7, 8]


def test_another_data_set_is_normalised_as_the_training_was(run):
    digits = open_data("digits")
    # its own mean would undo the shift
    dark = replace(digits, train=ArraySplit(digits.train.images // 4, digits.train.labels))
    results = [evaluate(open_trained(run), each, time_steps=(2,), count=0).results for each in (digits, dark)]
    assert results[0][0].per_class == results[1][0].per_class


def test_data_of_other_classes_are_refused(run):
    digits = open_data("digits")
    with pytest.raises(ValueError, match="10 classes, 1 channels, images; digits has 11 classes"):
        evaluate(open_trained(run), replace(digits, class_names=tuple("abcdefghijk")))


@pytest.mark.parametrize("backend", ["jax", "tf"])
def test_another_framework_says_the_same(run, backend):
    pytest.importorskip("flax" if backend == "jax" else "tensorflow")
    here, there = (
        evaluate(open_trained(run), open_data("digits"), time_steps=(2,), count=0, backend=name, batch_size=360)
        for name in ("torch", backend)
    )
    assert there.backend == backend
    assert there.results[0].accuracy == pytest.approx(here.results[0].accuracy, abs=2 / 360)
    assert there.results[0].firing_rates == pytest.approx(here.results[0].firing_rates, abs=1e-3)


def test_the_command_prints_tables_and_writes_json(run, tmp_path):
    done = sbp("evaluate", str(run), "-T", "1-2", "--count", "2", "--out", str(tmp_path / "evaluation.json"))
    assert done.exit_code == 0, done.output
    assert "synaptic ops" in done.output
    assert "firing rate % by layer" in done.output
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["schema"] == "sbp.evaluation/1"
    assert content["epoch"] == 1
    # as the training itself measured it
    kept = json.loads((run / "results.json").read_text())["epochs"][0]["accuracy"]
    assert content["results"][1]["accuracy"] == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "Invalid value for RUN: there is no nowhere"),
        (["RUN", "-T", "0"], "time_steps must be different numbers of at least 1, got '0'"),
        (["RUN", "-T", "few"], "time_steps must be as in 4, or 1,2,4, or 1-8; got 'few'"),
        (["RUN", "--data", "letters"], "data must be one of"),
        (["RUN", "--backend", "numpy"], "backend must be one of"),
    ],
)
def test_what_does_not_fit_is_answered_in_a_line(run, arguments, message):
    done = sbp("evaluate", *(str(run) if each == "RUN" else each for each in arguments))
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())


def test_a_file_of_weights_that_is_no_runs_is_refused(run, tmp_path):
    saved = files.load(run / "best.safetensors")
    files.save(tmp_path / "net.safetensors", saved.weights, spec=saved.spec)
    with pytest.raises(ValueError, match="does not note 'recipe'"):
        open_trained(tmp_path / "net.safetensors")
    with pytest.raises(FileNotFoundError, match="no epoch of it was finished"):
        open_trained(tmp_path)
