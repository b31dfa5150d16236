"""The network and training levels compare what they claim, on draws in which nothing is trivial, and they bite."""

import re

import numpy as np
import pytest

from sbp_conformance import Selection, cases_of, run_backend
from sbp_conformance.levels.network import DOUBLE_GUARD, GUARD
from sbp_conformance.run import plan, select
from sbp_core import ResNetSpec
from sbp_core.reference.backend import ReferenceBackend

NETWORKS, TRAININGS = cases_of("network"), cases_of("training")
SHALLOW = "network-learnt-decay-clif"


def by_name(case):
    return case.name


def run(backend, case=SHALLOW):
    (outcome,) = run_backend(backend, Selection(cases=[case], dtypes=["float64"], modes=["eager"]))
    return outcome


@pytest.mark.parametrize("case", [*NETWORKS, *TRAININGS], ids=by_name)
def test_every_potential_keeps_off_the_threshold_and_every_number_fits_float32(case):
    assert case._margin(case.drawn) >= (GUARD if "float32" in case.dtypes else DOUBLE_GUARD)
    weights, batches = case.drawn
    for array in [*weights.values(), *(batch.images for batch in batches)]:
        np.testing.assert_array_equal(array, np.float64(np.float32(array)))


@pytest.mark.parametrize("case", NETWORKS, ids=by_name)
def test_every_block_fires_and_keeps_silent_and_every_parameter_has_a_gradient(case):
    expected = case.expected
    assert set(expected.spikes) == set(case.network.spec.tap_channels)
    # a block that adds gives sums of spikes, or potentials
    assert all(np.std(output) > 0.05 for output in expected.spikes.values())
    assert set(expected.gradients) | set(expected.statistics) == set(case.drawn.weights)
    learns = [name for name in expected.gradients if case.coefficient or not name.startswith("branches.")]
    # batch norm takes away what a convolution's bias adds
    learns = [name for name in learns if not re.search(r"conv\d*\.bias$", name)]
    largest = {name: np.max(np.abs(expected.gradients[name])) for name in learns}
    assert min(largest.values()) > 1e-6, min(largest, key=largest.get)


def test_a_whole_resnet18_both_stems_and_a_learnt_decay_occur():
    specs = [case.network.spec for case in NETWORKS if isinstance(case.network.spec, ResNetSpec)]
    assert any(spec.layers == 18 for spec in specs)
    assert {spec.stem for spec in specs} == {"cifar", "imagenet"}
    assert any(spec.neuron.learn_decay for spec in specs)
    assert {case.network.loss.combine for case in NETWORKS} == {"logits", "losses"}


def test_the_coefficient_moves_in_training_and_float32_holds_its_values():
    for case in TRAININGS:
        values = [float(case.schedule(step)) for step in range(1, case.steps + 1)]
        assert len(set(values)) == case.steps == 5
        assert values == [float(np.float32(value)) for value in values]
        moved = [np.max(np.abs(case.expected.weights[name] - start)) for name, start in case.drawn.weights.items()]
        assert min(moved) > 1e-5


def altered(field, change):
    class Faulty(ReferenceBackend):
        def network(self, *arguments, **options):
            result = super().network(*arguments, **options)
            return result._replace(**{field: change(getattr(result, field))})

    return Faulty()


def with_one(changed, name):
    return lambda arrays: dict(arrays) | {name: changed(arrays[name])}


def flip(spikes):
    flipped = spikes.copy()
    flipped.flat[0] = 1.0 - flipped.flat[0]
    return flipped


FAULTS = {
    "a flipped spike": (altered("spikes", with_one(flip, "layer1")), "spikes of layer1: 1 of"),
    "a gradient a billionth off": (
        altered("gradients", with_one(lambda g: g * (1 + 1e-9), "main.stem.conv.weight")),
        "gradient of main.stem.conv.weight: off by",
    ),
    "a kernel transposed": (
        altered("gradients", with_one(lambda g: g.swapaxes(-1, -2), "main.layer1.0.conv2.weight")),
        "gradient of main.layer1.0.conv2.weight: off by",
    ),
    "a parameter without gradient": (
        altered("gradients", lambda arrays: {k: v for k, v in arrays.items() if k != "branches.layer1.bias"}),
        "wrong names: missing ['branches.layer1.bias']",
    ),
    "a biased running variance": (
        altered("statistics", with_one(lambda v: v * 0.999, "main.stem.bn.running_var")),
        "main.stem.bn.running_var after the step: off by",
    ),
    "logits of the branches swapped in": (
        altered("logits", lambda logits: logits[::-1]),
        "logits of main: off by",
    ),
    "no logits": (altered("logits", lambda logits: None), "wrong names"),
    "evaluation with the batch's statistics": (
        altered("evaluated", lambda logits: logits + 1e-6),
        "logits in evaluation: off by",
    ),
    "the loss summed over the batch": (altered("value", lambda value: 3 * value), "loss: off by"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_by_name(name):
    backend, message = FAULTS[name]
    assert any(message in problem for problem in run(backend).problems), run(backend).problems


class LateCoefficient(ReferenceBackend):
    def training(self, network, weights, batches, schedule, optimizer, **options):
        return super().training(network, weights, batches, lambda step: schedule(step - 1), optimizer, **options)


class Dampened(ReferenceBackend):
    def training(self, network, weights, batches, schedule, optimizer, **options):
        return super().training(network, weights, batches, schedule, optimizer._replace(momentum=0.499), **options)


class StuckStatistics(ReferenceBackend):
    def training(self, network, weights, *arguments, **options):
        result = super().training(network, weights, *arguments, **options)
        stuck = {name: weights[name] for name in weights if ".running_" in name}
        return result._replace(weights=dict(result.weights) | stuck)


@pytest.mark.parametrize("backend", [LateCoefficient(), Dampened(), StuckStatistics()], ids=lambda b: type(b).__name__)
def test_a_fault_in_training_is_caught(backend):
    problems = run(backend, "training-losses").problems
    assert any("at the end: off by" in problem for problem in problems)


def test_a_backend_without_networks_is_not_asked_for_them():
    class Plain(ReferenceBackend):
        network = None
        training = None

    selection = Selection(levels=["loss", "network", "training"])
    assert {check.case.level for check in select(Plain(), selection)} == {"loss"}
    (lack,) = (lack for lack in plan(Plain(), selection).not_offered if lack.kind == "member")
    assert (lack.kind, lack.name) == ("member", "network")
    assert {check.partition("-")[0] for check in lack.checks} == {"network", "training"}
    assert "member" not in {lack.kind for lack in plan(ReferenceBackend(), selection).not_offered}
