"""Branches join the output in training, vanish otherwise, and their coefficient moves without a new trace."""

from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf

import sbp_tf
from sbp_core import Constant, Evolutionary, LossSpec, ResNetSpec, ShortcutOutput
from sbp_core.reference.losses import loss_of

SMALL = ResNetSpec(depths=(1, 1), widths=(3, 4), num_classes=5, time_steps=2)


def images(dtype="float32"):
    return tf.constant(np.random.default_rng(5).normal(size=(2, 6, 6, 3)), dtype)


def shortcut(combine="logits", per_step=False, **arguments):
    return sbp_tf.Shortcut(sbp_tf.ResNet(SMALL, per_step=per_step), ["layer1", "stem"], 5, combine, **arguments)


class Own(tf.Module):
    """A network of someone's own, without space."""

    tap_channels: ClassVar = {"hidden": 6}

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(tf.random.normal((4, 6)))
        self.head = sbp_tf.Readout(6, 5)
        self.neuron = sbp_tf.LIF()

    def __call__(self, x, training=False, taps=None):
        hidden = self.neuron(x @ self.weight)
        return self.head(hidden) if taps is None else (self.head(hidden), {"hidden": hidden})


def test_outside_training_the_branches_do_not_run():
    model = shortcut()
    for branch in model.branches.values():
        branch.weight.assign(tf.fill(branch.weight.shape, float("nan")))
    assert model(images()).numpy().tolist() == model.main(images()).numpy().tolist()
    assert np.isnan(model(images(), training=True).numpy()).all()


def test_kept_apart_the_logits_are_main_and_branches_in_the_order_of_the_taps():
    model = shortcut("losses")
    output = model(images(), training=True)
    assert isinstance(output, ShortcutOutput)
    assert len(output.branches) == 2
    _, tapped = model.main(images(), training=True, taps=["stem"])
    branch = model.branches["stem"](tapped["stem"]).numpy().mean(0)
    np.testing.assert_allclose(output.branches[1].numpy(), branch, rtol=1e-6)
    assert isinstance(model(images()), tf.Tensor)


def test_strip_gives_back_the_net_with_nothing_on_it():
    net = sbp_tf.ResNet(SMALL)
    before = set(vars(net))
    model = sbp_tf.Shortcut(net, ["layer1"], 5)
    model(images(), training=True)
    assert model.strip() is model.main is net
    assert set(vars(net)) == before


def test_a_whole_training_step_compiles_once_and_creates_no_variable_later():
    model = shortcut()
    scheduler = sbp_tf.CoefficientScheduler(model, Evolutionary(initial=0.25, total_steps=4))
    labels = tf.constant([0, 4])
    seen, losses = [], []

    @tf.function
    def step(x, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(x, training=True)))
        variables = model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(0.05 * gradient)
        scheduler.step()
        return loss

    for _ in range(4):
        seen.append(float(model.coefficient))
        losses.append(float(step(images(), labels)))
    assert seen == [0.1875, 0.125, 0.0625, 0.0]
    assert losses[-1] < losses[0]
    assert step.experimental_get_tracing_count() == 1


def test_branches_at_coefficient_0_get_a_gradient_of_0_not_none():
    model = shortcut(coefficient=0.0)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model(images(), training=True))
    gradients = tape.gradient(value, [model.branches["layer1"].weight, model.branches["stem"].bias])
    assert [float(tf.reduce_sum(tf.abs(gradient))) for gradient in gradients] == [0.0, 0.0]


def test_trainable_variables_are_the_nets_and_the_branches_without_the_coefficient():
    model = shortcut()
    trainable = {id(variable) for variable in model.trainable_variables}
    assert {id(variable) for variable in model.main.trainable_variables} < trainable
    assert len(trainable) == len(model.main.trainable_variables) + 4
    assert id(model.coefficient) not in trainable
    assert id(model.coefficient) in {id(variable) for variable in model.variables}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_the_sum_has_the_dtype_of_the_images(dtype):
    assert shortcut(coefficient=0.3)(images(dtype), training=True).dtype.name == dtype


def test_weights_of_a_shortcut_model_round_trip():
    source, target = shortcut(), shortcut()
    weights = sbp_tf.export_weights(source)
    assert weights["branches.layer1.weight"].shape == (5, 3)
    assert weights["main.layer2.0.downsample.conv.weight"].shape == (4, 3, 1, 1)
    sbp_tf.import_weights(target, weights)
    np.testing.assert_array_equal(target(images(), training=True), source(images(), training=True))


@pytest.mark.parametrize("combine", ["logits", "losses"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_loss_is_the_composition_by_hand(combine, dtype):
    random = np.random.default_rng(3)
    main, *branches = random.normal(size=(3, 4, 5))
    labels = np.array([0, 4, 2, 2])
    logits = [tf.constant(array, dtype) for array in (main, *branches)]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = sbp_tf.ShortcutLoss(combine)(ShortcutOutput(logits[0], tuple(logits[1:])), labels, 0.25)
    assert loss.dtype.name == dtype
    value, grad_main, grad_branches = loss_of(LossSpec(combine=combine), main, branches, labels, 0.25)
    tolerance = 1e-13 if dtype == "float64" else 1e-5
    assert float(loss) == pytest.approx(value, rel=tolerance)
    for found, wanted in zip(tape.gradient(loss, logits), (grad_main, *grad_branches), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=tolerance, atol=tolerance)


def test_the_loss_defaults_to_losses_kept_apart():
    assert sbp_tf.ShortcutLoss().spec.combine == "losses"


def test_the_scheduler_starts_at_step_1_and_resumes():
    schedule = Evolutionary(initial=0.25, total_steps=4)
    model = shortcut()
    scheduler = sbp_tf.CoefficientScheduler(model, schedule)
    assert float(model.coefficient) == 0.1875
    scheduler.step()
    state = scheduler.state_dict()
    assert state == {"iteration": 2}
    other = shortcut()
    resumed = sbp_tf.CoefficientScheduler(other, schedule)
    resumed.load_state_dict(state)
    assert float(other.coefficient) == float(model.coefficient) == 0.125
    for _ in range(5):
        resumed.step()
    assert float(other.coefficient) == 0.0


def test_a_net_with_logits_of_each_step_gets_branches_of_each_step_for_supervision_of_every_step():
    model = shortcut("losses", per_step=True)
    twin = shortcut("losses")
    sbp_tf.import_weights(twin, sbp_tf.export_weights(model))
    output, mean = model(images(), training=True), twin(images(), training=True)
    assert [tuple(logits.shape) for logits in (output.main, *output.branches)] == [(2, 2, 5)] * 3
    for found, wanted in zip((output.main, *output.branches), (mean.main, *mean.branches), strict=True):
        np.testing.assert_allclose(found.numpy().mean(0), wanted.numpy(), rtol=1e-5, atol=1e-6)
    spec = LossSpec(per_step=True)
    labels = np.array([0, 4])
    wanted, _, _ = loss_of(spec, output.main.numpy(), [b.numpy() for b in output.branches], labels, 0.25)
    assert float(sbp_tf.ShortcutLoss(spec)(output, labels, 0.25)) == pytest.approx(wanted, rel=1e-5)
    summed = shortcut(per_step=True, coefficient=0.25)
    assert tuple(summed(images(), training=True).shape) == (2, 2, 5)
    assert tuple(shortcut(branch="convolutional", per_step=True)(images(), training=True).shape) == (2, 2, 5)


class Peak(tf.Module):
    """A branch of someone's own: the largest value of each channel."""

    def __init__(self, channels, classes):
        super().__init__()
        self.weight = tf.Variable(tf.random.normal((channels, classes)))

    def __call__(self, x):
        return tf.reduce_max(x, axis=[0, 2, 3]) @ self.weight


def test_a_branch_of_ones_own_joins_the_sum_and_its_variables_the_models():
    for branch in (Peak, {"layer1": Peak(3, 5), "stem": Peak(3, 5)}):
        model = shortcut(branch=branch, coefficient=0.5)
        main, tapped = model.main(images(), training=True, taps=["layer1", "stem"])
        wanted = main.numpy()
        for tap in ("layer1", "stem"):
            wanted = wanted + 0.5 * (tapped[tap].numpy().max(axis=(0, 2, 3)) @ model.branches[tap].weight.numpy())
        np.testing.assert_allclose(model(images(), training=True).numpy(), wanted, rtol=1e-5, atol=1e-6)
        assert {id(model.branches[tap].weight) for tap in model.branches} <= {id(v) for v in model.trainable_variables}
    with pytest.raises(TypeError, match="branch of tap 'layer1' must be a Readout"):
        sbp_tf.export_weights(model)


def test_a_convolutional_branch_normalises_over_time_and_batch_and_round_trips():
    model = shortcut(branch="convolutional")
    main, tapped = model.main(images(), training=True, taps=["layer1", "stem"])
    wanted = main.numpy()
    for tap in ("layer1", "stem"):
        branch, block = model.branches[tap], tapped[tap].numpy().astype("float64")
        padded = np.pad(block, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        maps = np.einsum("tbhwcij,ijco->tbhwo", windows, branch.conv.weight.numpy())
        mean, variance = maps.mean(axis=(0, 1, 2, 3)), maps.var(axis=(0, 1, 2, 3))
        pooled = np.maximum((maps - mean) / np.sqrt(variance + 1e-5), 0.0).mean(axis=(2, 3))
        wanted = wanted + (pooled @ branch.readout.weight.numpy() + branch.readout.bias.numpy()).mean(0)
    np.testing.assert_allclose(model(images(), training=True).numpy(), wanted, rtol=1e-4, atol=1e-5)

    weights = sbp_tf.export_weights(model)
    assert weights["branches.stem.conv.weight"].shape == (3, 3, 3, 3)
    assert len(weights) == len(model.variables) - 1
    target = shortcut(branch="convolutional")
    sbp_tf.import_weights(target, weights)
    np.testing.assert_array_equal(target(images(), training=True), model(images(), training=True))


class Silent(Own):
    def __call__(self, x, training=False, taps=None):
        return super().__call__(x, training)


class Forgetful(Own):
    def __call__(self, x, training=False, taps=None):
        result = super().__call__(x, training, taps)
        return result if taps is None else (result[0], {})


def trained(net, classes=5):
    return sbp_tf.Shortcut(net, ["hidden"], classes)(tf.ones((3, 2, 4)), training=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sbp_tf.Shortcut(Own(), ["hiden"], 5), ValueError, "did you mean 'hidden'.*The network has: hidden"),
        (lambda: sbp_tf.Shortcut(Own(), [], 5), ValueError, "taps must name at least one block"),
        (lambda: sbp_tf.Shortcut(Own(), "hidden", 5), TypeError, "taps must be a sequence of names"),
        (lambda: sbp_tf.Shortcut(Own(), ["hidden"], 0), ValueError, "num_classes must be at least 1"),
        (lambda: sbp_tf.Shortcut(Own(), ["hidden"], 5, "sum"), ValueError, "combine must be one of"),
        (lambda: sbp_tf.Shortcut(Own(), ["hidden"], 5, coefficient=float("inf")), ValueError, "coefficient must be"),
        (lambda: sbp_tf.Shortcut(sbp_tf.LIF(), ["hidden"], 5), TypeError, "LIF is not: give it tap_channels"),
        (lambda: shortcut(branch="mlp"), ValueError, "branch must be one of 'linear', 'convolutional'"),
        (lambda: shortcut(branch=sbp_tf.Readout(3, 5)), TypeError, "a mapping from each tap to its module"),
        (lambda: shortcut(branch={"stem": Peak(3, 5)}), ValueError, r"must have the taps \['layer1', 'stem'\]"),
        (lambda: shortcut(branch=lambda channels, classes: 3), TypeError, "tap 'layer1' must be a tf.Module, got 3"),
        (
            lambda: shortcut(branch=lambda channels, classes: sbp_tf.Readout(channels, 4))(images(), training=True),
            ValueError,
            r"branch of tap 'layer1' must give logits as the net's are, \(2, 5\)",
        ),
        (
            lambda: shortcut(branch=Peak, per_step=True)(images(), training=True),
            ValueError,
            r"branch of tap 'layer1' must give logits as the net's are, \(2, 2, 5\)",
        ),
        (lambda: sbp_tf.ConvolutionalReadout(3, 5)(tf.ones((2, 3, 3))), ValueError, "height, width, channels"),
        (lambda: trained(Silent()), TypeError, r"net must return \(logits, outputs\)"),
        (lambda: trained(Forgetful()), ValueError, "it left out 'hidden'"),
        (lambda: trained(Own(), 4), ValueError, r"net must give logits \(batch, 4\)"),
        (lambda: shortcut()(images(), training=1), TypeError, "training must be True or False"),
        (lambda: sbp_tf.Readout(3, 5)(tf.ones((2, 3))), ValueError, r"x must have shape \(time, batch"),
        (lambda: sbp_tf.ShortcutLoss("sum"), ValueError, "combine must be one of"),
        (lambda: sbp_tf.ShortcutLoss()(tf.ones((2, 5)), [0, 1], 1.0), TypeError, "output must be a ShortcutOutput"),
        (
            lambda: sbp_tf.ShortcutLoss()(ShortcutOutput(tf.ones((2, 5)), ()), [0.0, 1.0], 1.0),
            TypeError,
            "labels must be integer classes",
        ),
        (
            lambda: sbp_tf.ShortcutLoss()(ShortcutOutput(tf.ones((2, 5)), ()), [0, 1, 2], 1.0),
            ValueError,
            r"labels must have shape \(2,\), got \(3,\)",
        ),
        (lambda: sbp_tf.CoefficientScheduler(Own(), Constant()), TypeError, "model must be a Shortcut"),
        (lambda: sbp_tf.CoefficientScheduler(shortcut(), 0.25), TypeError, "schedule must be a function of the step"),
        (lambda: sbp_tf.CoefficientScheduler(shortcut(), Evolutionary()), ValueError, "total_steps of .* is not set"),
        (
            lambda: sbp_tf.CoefficientScheduler(shortcut(), Constant()).load_state_dict({"step": 1}),
            ValueError,
            "state must hold 'iteration' alone",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
