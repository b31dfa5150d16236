"""The figures of a network's signal against loops, the neurons' adjoint derived by hand, and what is said of them."""

import dataclasses
import json
import math

import numpy as np
import pytest

from sbp_core import ArcTan, LIFSpec, Rectangle, signal
from sbp_core.reference import neuron
from sbp_core.signal import Firing, Pass, fired
from sbp_core.signal.findings import HEALTHY, HEALTHY_SO_FAR
from tests import signals

STEPS, BATCH, SIZE = 3, 4, 5
RANDOM = np.random.default_rng(0)
NEURONS = [
    LIFSpec(),
    LIFSpec(decay=0.3, reset="soft", rest=0.2, input_gain="complement", surrogate=Rectangle(width=0.6)),
    LIFSpec(reset_timing="next", reset="soft", inclusive=True),
    LIFSpec(synaptic_decay=0.4, reset="none"),
]


@pytest.mark.parametrize("spec", NEURONS)
def test_what_fired_is_what_the_neurons_other_derivation_gives(spec):
    x = RANDOM.normal(0.5, 1.0, (STEPS, BATCH, SIZE))
    nothing = neuron.initial_state(spec, x[0])
    wanted = neuron.adjoint(spec, x, None, np.zeros_like(x), nothing).output
    np.testing.assert_array_equal(fired("n", spec, x, x).spikes, wanted)


@pytest.mark.parametrize("delay", [0, 1])
def test_delayed_neurons_fire_when_they_decide(delay):
    x = RANDOM.normal(0.5, 1.0, (STEPS, BATCH, SIZE))
    now = fired("n", LIFSpec(), x, x)
    for timing in ("now", "next"):
        spec = LIFSpec(output_delay=delay, reset_timing=timing)
        np.testing.assert_array_equal(fired("n", spec, x, x).spikes, now.spikes)


def test_inside_is_where_a_gradient_passes():
    x = RANDOM.normal(0.5, 1.0, (1, BATCH, SIZE))
    spec = LIFSpec(surrogate=Rectangle(width=0.8))
    zero = neuron.initial_state(spec, x[0])
    slope = neuron.adjoint(spec, x, None, np.ones_like(x), zero._replace(potential=0 * x[0])).grad_input
    np.testing.assert_array_equal(fired("n", spec, x, x).inside, slope != 0)


def test_a_surrogate_with_tails_ends_at_a_tenth_of_its_height():
    spec = LIFSpec(surrogate=ArcTan(height=2.0, width=0.5))
    x = np.linspace(-2.0, 4.0, 13).reshape(1, 1, -1)
    np.testing.assert_array_equal(fired("n", spec, x, x).inside[0, 0], np.abs(x[0, 0] - 1.0) <= 0.5 * 3.0)


def made(seed, images):
    """A pass of random spikes, which a noisy copy changes as the images say."""
    random = np.random.default_rng(seed)
    # one neuron that always fires, one that never does
    fixed = np.array([np.inf, -np.inf, 0.0, 0.0, 0.0])
    layers = [
        Firing(
            name,
            random.random((STEPS, BATCH, SIZE)) < 0.5 + fixed,
            random.random((STEPS, BATCH, SIZE)) < 0.4,
            random.normal(size=(STEPS, BATCH, SIZE)),
        )
        for name in ("block.a", "block.b")
    ]
    for layer in layers:
        # and one that fires but once, in the first batch
        layer.spikes[..., 2] = False
        layer.spikes[0, 0, 2] = seed == 0
    gradients = {"first.weight": random.normal(size=(4, 6)), "first.bias": np.ones(4), "last.weight": np.eye(3)}
    return Pass(layers, gradients, float(seed))


class Scripted:
    """Gives passes one after the other: the first batch, its noisy copy, the second batch, ..."""

    def __init__(self):
        self.given = []

    def __call__(self, images, labels):
        self.given.append(made(len(self.given), images))
        return self.given[-1]


@pytest.fixture
def scripted():
    observe = Scripted()
    batches = [(RANDOM.normal(size=(BATCH, 2, 3)), np.zeros(BATCH, int)) for _ in range(3)]
    return observe, signal.diagnose(observe, batches)


def cosine(a, b):
    return float(np.dot(a, b)) / math.sqrt(float(np.dot(a, a)) * float(np.dot(b, b)))


def test_figures_of_neurons_are_those_of_loops(scripted):
    observe, found = scripted
    first, near, *others = observe.given
    runs = [first, *others]
    for place, figures in enumerate(found.neurons):
        spikes = [run.neurons[place].spikes for run in runs]
        for t in range(STEPS):
            everything = [s[t, b].astype(float) for s in spikes for b in range(BATCH)]
            per_neuron = np.sum(everything, 0)
            assert figures.rate[t] == pytest.approx(np.mean(everything))
            assert figures.silent[t] == pytest.approx(np.mean(per_neuron == 0))
            assert figures.saturated[t] == pytest.approx(np.mean(per_neuron == len(everything)))
            assert figures.inside[t] == pytest.approx(np.mean([run.neurons[place].inside[t] for run in runs]))
            norms = [np.sqrt((run.neurons[place].gradient[t] ** 2).sum()) for run in runs]
            assert figures.gradient[t] == pytest.approx(np.mean(norms))
            here, there = first.neurons[place].spikes[t] * 1.0, near.neurons[place].spikes[t] * 1.0
            assert figures.near[t] == pytest.approx(np.mean([cosine(here[b], there[b]) for b in range(BATCH)]))
            apart = [cosine(here[b], here[(b + 1) % BATCH]) for b in range(BATCH)]
            assert figures.different[t] == pytest.approx(np.mean(apart))
    first_layer, second = found.neurons
    assert math.isnan(first_layer.gain)
    assert second.gain == pytest.approx(first_layer.norm / second.norm)
    assert second.kept == pytest.approx(
        (np.mean(second.near) - np.mean(second.different)) / (1 - np.mean(second.different))
    )


def test_agreement_is_the_mean_cosine_of_all_pairs_of_batches(scripted):
    observe, found = scripted
    a, b, c = (observe.given[place].gradients["first.weight"].ravel() for place in (0, 2, 3))
    first, last = found.weights
    assert (first.path, last.path) == ("first", "last")
    assert first.agreement == pytest.approx((cosine(a, b) + cosine(a, c) + cosine(b, c)) / 3)
    assert last.agreement == pytest.approx(1.0)
    scatter = np.std([cosine(a, b), cosine(a, c), cosine(b, c)])
    assert first.floor == pytest.approx(2 * max(1 / math.sqrt(24), scatter) / math.sqrt(3))
    assert first.is_noise
    assert not last.is_noise
    assert found.loss == pytest.approx((0 + 2 + 3) / 3)


def test_a_gradient_of_nothing_agrees_with_none():
    def observe(images, labels):
        found = made(1, images)
        return found._replace(gradients={"w.weight": np.zeros((2, 2))})

    batches = [(RANDOM.normal(size=(BATCH, 2)), np.zeros(BATCH, int)) for _ in range(2)]
    (weights,) = signal.diagnose(observe, batches).weights
    assert weights.agreement == 0.0
    assert weights.is_noise


def test_the_first_layers_share_of_the_gradient_is_that_of_the_main_network():
    (weights, *_), found = signals.oracle().weights, signals.oracle()

    def share(*norms, branch=100.0):
        layers = [dataclasses.replace(weights, path=f"layer{n}", gradient=norm) for n, norm in enumerate(norms)]
        layers.append(dataclasses.replace(weights, path="branches.layer1", gradient=branch))
        return dataclasses.replace(found, weights=tuple(layers)).early_share

    # a quarter of eight layers is two
    assert share(1.0, 2.0, 9.0, 9.0, 9.0, 9.0, 4.0, 5.0) == pytest.approx(1.5 / (1.5 + 4.5))
    assert share(3.0, 1.0) == pytest.approx(0.75)
    assert share(2.0) == 0.5
    assert share(0.0, 1.0) == share(0.0, 0.0) == 0.0


def changed(**figures):
    """The oracle's diagnosis, healthy but for what is changed of ``neurons[1]`` and of weights."""
    found = signals.oracle()
    healthy = {"rate": (0.2, 0.2), "inside": (0.4, 0.4), "near": (0.9, 0.9), "different": (0.3, 0.3)}
    neurons = [dataclasses.replace(neuron, **healthy) for neuron in found.neurons]
    weights = [dataclasses.replace(weight, agreement=0.5, gradient=1.0) for weight in found.weights]
    noisy, small, after = figures.pop("noisy", 0), figures.pop("small", 1.0), figures.pop("after", None)
    neurons[1] = dataclasses.replace(neurons[1], **figures)
    weights[:noisy] = [dataclasses.replace(weight, agreement=0.01, floor=0.02) for weight in weights[:noisy]]
    weights[0] = dataclasses.replace(weights[0], gradient=small)
    return dataclasses.replace(found, neurons=tuple(neurons), weights=tuple(weights), after=after).findings


def test_findings_say_where_and_what():
    assert changed() == (HEALTHY,)
    assert changed(rate=(0.0, 0.004))[0].startswith("In layer1.0.neuron1 hardly anything fires")
    assert changed(rate=(0.95, 0.97))[0].startswith("In layer1.0.neuron1 nearly every neuron fires")
    assert changed(inside=(0.0, 0.01))[0].startswith("In layer1.0.neuron1 hardly any potential")
    assert changed(near=(0.31, 0.32))[0].startswith("Near inputs part behind stem.neuron: at layer1.0.neuron1")
    assert changed(noisy=2)[0].startswith("Up to layer1.0.conv1 the gradients of two batches have nothing in common")
    assert changed(noisy=7)[0].startswith("In every layer the gradients")
    assert changed(small=1e-5)[0].startswith("The gradient vanishes: at stem.conv it has 1e-05 times")
    assert changed(small=0.0)[0] == "No gradient at all reaches stem.conv, the first layer."


def test_at_the_start_noise_is_no_fault():
    assert changed(noisy=7, after=60)[0].startswith("In every layer the gradients of two batches have nothing")
    first, last = changed(noisy=7, after=0)
    assert first == HEALTHY_SO_FAR
    assert last.startswith("In every layer the gradients of two batches have nothing in common")
    assert "at the start this says nothing yet" in last
    assert changed(after=0) == (HEALTHY,)
    silent, note = changed(noisy=7, after=10, rate=(0.0, 0.0))
    assert silent.startswith("In layer1.0.neuron1 hardly anything fires")
    assert "after 10 steps of training this says nothing yet" in note


def test_a_diagnosis_is_json_and_text_with_the_finding_first():
    found = signals.oracle()
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["neurons"][0]["gain"] is None
    assert values["block_gains"]["layer2.0"] == pytest.approx(found.neurons[3].gain * found.neurons[4].gain)
    assert str(found).startswith(found.findings[0])
    assert f"layer2.0.neuron2 {np.mean(found.neurons[4].rate):.3g} " in " ".join(str(found).split())


def test_noise_is_the_same_in_every_layout():
    images = RANDOM.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)  # batch, channels, time, height, width
    wanted = signal.perturbed(images, 0.3, 1)
    frames = signal.perturbed(np.moveaxis(images, (0, 1), (1, -1)), 0.3, 1, (1, -1))
    np.testing.assert_array_equal(np.moveaxis(frames, (1, -1), (0, 1)), wanted)
    assert (wanted - images).std() == pytest.approx(0.3 * images.std(), rel=0.05)
    assert wanted.dtype == np.float32


def test_mistakes_are_named(scripted):
    batch = (np.ones((BATCH, 2)), np.zeros(BATCH, int))
    with pytest.raises(ValueError, match="batches must be two or more"):
        signal.diagnose(Scripted(), [batch])
    with pytest.raises(ValueError, match="two samples or more each, got one of 1"):
        signal.diagnose(Scripted(), [(np.ones((1, 2)), np.zeros(1, int))])
    with pytest.raises(ValueError, match="noise must be greater than 0"):
        signal.diagnose(Scripted(), [batch, batch], noise=0.0)
    with pytest.raises(ValueError, match="model must have spiking neurons"):
        signal.diagnose(lambda images, labels: Pass((), {}, 0.0), [batch, batch])


def test_descent_is_what_the_loss_does_along_the_gradient():
    class Valley:
        """The loss is half the square of a weight; the gradient that is told is twice the true one."""

        def __call__(self, images, labels):
            found = made(1, images)
            return found._replace(gradients={"w.weight": 2 * self.weight("w.weight"), "v.weight": np.zeros((2, 2))})

        def weight(self, name):
            return np.array([[3.0, 0.0], [0.0, 4.0]])

        def moved(self, images, labels, name, move):
            return 0.5 * float(np.sum((self.weight(name) + move) ** 2))

    batches = [(RANDOM.normal(size=(BATCH, 2)), np.zeros(BATCH, int)) for _ in range(2)]
    first, second = signal.diagnose(Valley(), batches, slopes=5).weights
    assert first.descent == pytest.approx(0.5)
    assert math.isnan(second.descent)
    assert math.isnan(signal.diagnose(Valley(), batches).weights[0].descent)
    with pytest.raises(TypeError, match="slopes need an observer that can move weights"):
        signal.diagnose(Scripted(), batches, slopes=1)
