"""Costs are counted by hand: operations, accumulates of spikes, firing rates, energy."""

from itertools import pairwise

import numpy as np
import pytest

from sbp_core import CustomSpec, LIFSpec, network_spec
from sbp_core.costs import ACCUMULATE, MULTIPLY_ACCUMULATE, access, costs
from sbp_core.reference.networks import initial_weights
from sbp_core.specs import layers as kinds
from sbp_core.specs.structure import sequence

STEPS = 3
SPEC = CustomSpec(
    layers=sequence(
        stem=sequence(
            fc=kinds.Conv(channels=4, kernel=1), repeat=kinds.Repeat(time_steps=STEPS), neuron=kinds.Neuron()
        ),
        deep=sequence(conv=kinds.Conv(channels=2, kernel=1), neuron=kinds.Neuron(spec=LIFSpec(threshold=0.5))),
        pool=kinds.GlobalPool(),
        head=kinds.Linear(features=2, bias=False),
        mean=kinds.TimeMean(),
    ),
    num_classes=2,
    in_channels=1,
    time_steps=STEPS,
)


def counted():
    weights = {
        # two of four channels fire at every step
        "stem.fc.weight": np.array([2.0, 2.0, -1.0, -1.0]).reshape(4, 1, 1, 1),
        "deep.conv.weight": np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]).reshape(2, 4, 1, 1),
        "head.weight": np.eye(2),
    }
    rows = costs(SPEC, weights=weights, images=np.ones((5, 1, 2, 2)))
    return {row.path: row for row in rows}


def test_spikes_are_counted_where_they_go_in():
    rows = counted()
    assert (rows["stem.fc"].active, rows["stem.fc"].spikes) == (1.0, True)  # images of ones: whole numbers
    assert rows["stem.neuron"].rate == 0.5
    assert (rows["deep.conv"].active, rows["deep.conv"].spikes) == (0.5, True)
    assert rows["deep.neuron"].rate == 0.5
    # operations: once for the still image, then at each of three steps
    assert rows["stem.fc"].operations == 4 * 4
    assert rows["deep.conv"].operations == STEPS * 4 * 8
    assert rows["deep.conv"].synaptic == STEPS * 4 * 8 * 0.5
    assert rows["deep.neuron"].updates == STEPS * 8
    assert rows["head"].operations == STEPS * 4


def test_energy_is_of_accumulates_where_spikes_go_in_and_of_products_elsewhere():
    spec = network_spec("convnet", in_channels=1, time_steps=2)
    images = np.random.default_rng(0).normal(size=(2, 1, 8, 8))
    rows = {row.path: row for row in costs(spec, weights=initial_weights(spec, 0), images=images, training=True)}
    first, second = rows["stage1.conv1"], rows["stage2.conv1"]
    assert not first.spikes
    assert first.energy == MULTIPLY_ACCUMULATE * first.operations
    assert first.synaptic == 0.0
    assert second.spikes
    assert second.energy == pytest.approx(ACCUMULATE * second.operations * second.active)
    sums = access(4 * 32 * 16)
    assert second.memory == pytest.approx(second.synaptic * (access(4 * 4608) + 2 * sums))
    assert rows["stage2.neuron1"].memory == pytest.approx(2 * 2 * 32 * 16 * sums)


def test_memory_costs_what_horowitz_says_and_ever_more():
    sizes = [2.0**power for power in range(8, 30)]
    found = [access(size) for size in sizes]
    assert access(8192) == pytest.approx(5.0)
    assert access(2**20) == pytest.approx(50.0)
    assert all(a <= b for a, b in pairwise(found))
    assert found[-1] > 50.0


def test_operations_are_those_of_the_spec_without_data():
    spec = network_spec("spikformer_cifar")
    assert sum(row.operations for row in costs(spec, (32, 32))) == spec.operations((32, 32))
    assert sum(row.parameters for row in costs(spec, (32, 32))) == spec.parameter_count
    assert all(row.energy is None for row in costs(spec, (32, 32)))


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="size must be given: the vgg takes images of any"):
        costs(network_spec("vgg11"))
    with pytest.raises(ValueError, match="weights and images must be given together, or neither"):
        costs(SPEC, images=np.ones((1, 1, 2, 2)))
