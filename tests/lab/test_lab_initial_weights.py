import numpy as np
import pytest

from sbp_core import LIFSpec, ResNetSpec
from sbp_core.reference.networks import initial_weights

SPEC = ResNetSpec(depths=(1, 2), widths=(32, 64), in_channels=3, num_classes=10)


def test_there_is_an_array_of_the_right_shape_for_every_name_of_the_network():
    weights = initial_weights(SPEC, 0)
    assert {name: array.shape for name, array in weights.items()} == SPEC.parameter_shapes()
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


def test_convolutions_are_kaiming_normal_over_the_outputs():
    convolution = initial_weights(SPEC, 0)["layer2.0.conv1.weight"].astype(np.float64)
    deviation = np.sqrt(2 / (3 * 3 * 64))
    # 18,432 draws: the mean is within 4 standard errors, and so is the deviation
    assert abs(convolution.mean()) < 4 * deviation / np.sqrt(convolution.size)
    assert abs(convolution.std() / deviation - 1) < 4 / np.sqrt(2 * convolution.size)
    # a normal has kurtosis 3, a uniform 1.8
    assert abs(np.mean(convolution**4) / np.mean(convolution**2) ** 2 - 3) < 4 * np.sqrt(24 / convolution.size)


@pytest.mark.parametrize(
    ("name", "inputs"), [("main.head", 64), ("branches.layer1", 32), ("branches.stem", 32), ("branches.layer2", 64)]
)
def test_linear_weights_and_biases_fill_the_range_of_one_over_the_root_of_the_inputs(name, inputs):
    weights = initial_weights(SPEC, 0, ("stem", "layer1", "layer2"))
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    assert weight.shape == (10, inputs)
    assert bias.shape == (10,)
    bound = inputs**-0.5
    assert 0.95 * bound < np.abs(weight).max() <= bound
    assert 0.0 < np.abs(bias).max() <= bound


def test_batch_norm_starts_as_the_identity():
    weights = initial_weights(SPEC, 0)
    for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        np.testing.assert_array_equal(weights[f"layer2.0.downsample.bn.{part}"], np.full(64, value))


def test_a_learnt_decay_starts_at_the_spec_s_decay():
    spec = SPEC.replace(neuron=LIFSpec.parametric(decay=0.8))
    logit = float(initial_weights(spec, 0)["layer1.0.neuron2.decay_logit"])
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(0.8, abs=1e-7)


def test_seeds_give_the_same_weights_again_and_other_seeds_others():
    first, again, other = initial_weights(SPEC, 1), initial_weights(SPEC, 1), initial_weights(SPEC, 2)
    np.testing.assert_array_equal(first["stem.conv.weight"], again["stem.conv.weight"])
    assert not np.array_equal(first["stem.conv.weight"], other["stem.conv.weight"])
    # two layers of one shape are not the same draw
    assert not np.array_equal(first["layer2.1.conv1.weight"], first["layer2.1.conv2.weight"])


def test_branches_leave_the_main_network_s_weights_alone():
    plain, tapped = initial_weights(SPEC, 3), initial_weights(SPEC, 3, ("layer1",))
    assert set(tapped) == {f"main.{name}" for name in plain} | {"branches.layer1.weight", "branches.layer1.bias"}
    for name, array in plain.items():
        np.testing.assert_array_equal(tapped[f"main.{name}"], array)


@pytest.mark.parametrize(
    ("seed", "taps", "message"),
    [(-1, (), "seed must be at least 0, got -1"), (0, ("layr1",), "tap 'layr1' does not exist; did you mean 'layer1'")],
)
def test_a_seed_or_tap_that_cannot_be_is_refused(seed, taps, message):
    with pytest.raises(ValueError, match=message):
        initial_weights(SPEC, seed, taps)
