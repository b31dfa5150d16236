"""Watching a training: when it looks, what it says once, what it writes, and how it goes on."""

import dataclasses
import json

import pytest

from sbp_core.signal import Watch
from sbp_core.signal.watch import read
from tests import signals


def changed(rate=0.2, agreement=0.5, loss=2.0, layer=1):
    """The oracle's figures, healthy but for those of one layer."""
    found = signals.oracle()
    neurons = [dataclasses.replace(neuron, rate=(0.2, 0.2)) for neuron in found.neurons]
    neurons[layer] = dataclasses.replace(neurons[layer], rate=(rate, rate))
    weights = [dataclasses.replace(weight, agreement=0.5, floor=0.02) for weight in found.weights]
    weights[layer] = dataclasses.replace(weights[layer], agreement=agreement)
    return dataclasses.replace(found, neurons=tuple(neurons), weights=tuple(weights), loss=loss)


class Watched:
    """A watch of figures that a test gives."""

    def __init__(self, folder=None, every=100):
        self.now, self.told = changed(), []
        self.watch = Watch(lambda: self.now, every=every, folder=folder, tell=self.told.append)

    def at(self, step, **figures):
        self.now = changed(**figures)
        return self.watch.at(step)


def test_it_looks_after_the_first_step_and_every_so_many():
    watch = Watched(every=3).watch
    assert [look.step for look in (watch.step() for _ in range(7)) if look] == [1, 3, 6]
    # several at a time
    assert watch.at(8) is None
    assert watch.at(13).step == 13


def test_a_layer_that_falls_silent_is_said_once():
    watched = Watched()
    watched.at(1)
    assert watched.told == []
    assert watched.at(100, rate=0.001).said == (
        "Step 100: in layer1.0.neuron1 hardly anything fires: what lies behind gets no input.",
    )
    watched.at(200, rate=0.001)
    assert len(watched.told) == 1


def test_a_gradient_is_noise_after_two_looks_running_and_is_said_once():
    watched = Watched()
    for step, agreement in ((100, 0.01), (200, 0.4), (300, 0.01)):
        watched.at(step, agreement=agreement)
    assert watched.told == []
    watched.at(400, agreement=0.01)
    watched.at(500, agreement=0.01)
    (said,) = watched.told
    assert said.startswith("Step 400: in layer1.0.conv1 the gradients of two batches had nothing in common")


def test_noise_is_not_said_at_the_start_nor_of_batches_that_are_learnt():
    early = Watched(every=10)
    for step in (1, 10, 20, 30, 40, 50):
        early.at(step, agreement=0.0)
    learnt = Watched()
    for step in (1, 100, 200, 300):
        learnt.at(step, agreement=0.0 if step > 1 else 0.5, loss=2.0 if step == 1 else 0.1)
    assert early.told == learnt.told == []


def test_figures_are_lines_of_json_and_a_training_that_is_resumed_writes_over_what_came_later(tmp_path):
    first = Watched(tmp_path)
    for step in (1, 100, 200):
        first.at(step, agreement=0.0)
    first.watch.close()
    assert len(first.told) == 1
    lines = read(tmp_path)
    assert [line["step"] for line in lines] == [1, 100, 200]
    assert lines[1]["figures"]["agreement/layer1.0.conv1"] == 0.0
    assert lines[1]["figures"]["rate/stem.neuron"] == pytest.approx(0.2)
    # a line that was not written to its end
    file = tmp_path / "signal" / "figures.jsonl"
    file.write_text(file.read_text() + '{"step": 300, ')
    # from a checkpoint of step 150
    again = Watched(tmp_path)
    assert again.at(151, agreement=0.0) is None
    again.at(200, agreement=0.0)
    again.at(300, agreement=0.0)
    assert [line["step"] for line in read(tmp_path)] == [1, 100, 200, 300]
    assert again.told == first.told
    assert len(list((tmp_path / "signal").glob("events.*"))) == 1


def test_its_state_goes_on_without_a_folder():
    first, second = Watched(), Watched()
    first.at(100, agreement=0.0)
    second.watch.load_state_dict(json.loads(json.dumps(first.watch.state_dict())))
    assert second.watch.step() is None
    assert len(second.at(200, agreement=0.0).said) == 1
    with pytest.raises(ValueError, match="state must be that of a Watch"):
        second.watch.load_state_dict({"step": 1})
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Watched(every=0)


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "signal").write_text("in the way")
    watched = Watched(tmp_path)
    assert watched.at(1).step == 1
    assert "could not be written" in watched.told[0]
