"""Losses of a LossSpec in Keras's layout, time after the batch; on whichever backend Keras is set to."""

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import LossSpec, ShortcutOutput
from sbp_core.reference import losses
from sbp_keras.losses import classes_of

RANDOM = np.random.default_rng(20261124)
LABELS = np.array([2, 0])


def test_logits_of_every_step_come_batch_first():
    spec = LossSpec(per_step=True, level_weight=0.25, distillation=0.5)
    main, branch = RANDOM.normal(size=(2, 4, 2, 3))  # (time, batch, classes) each
    expected, *_ = losses.loss_of(spec, main, [branch], LABELS, 0.75)
    output = ShortcutOutput(*(ops.convert_to_tensor(np.swapaxes(part, 0, 1), "float32") for part in (main, branch)))
    found = sbp_keras.ShortcutLoss(spec)(output._replace(branches=(output.branches,)), LABELS, 0.75)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_a_class_masked_with_minus_infinity_leaves_the_loss_finite():
    logits = np.array([[-np.inf, 0.0, 1.0], [0.0, -np.inf, 2.0]], "float32")
    found = float(sbp_keras.ShortcutLoss()(ShortcutOutput(ops.convert_to_tensor(logits), ()), LABELS, 1.0))
    expected = 0.5 * (np.log(1 + np.exp(-1.0)) + np.log(1 + np.exp(2.0)))
    assert found == pytest.approx(expected, rel=1e-6)


def test_what_does_not_fit_is_refused():
    flat, steps = ops.zeros((2, 3)), ops.zeros((2, 4, 3))
    with pytest.raises(ValueError, match="3 axes, time among them, with per_step=True"):
        sbp_keras.ShortcutLoss(LossSpec(per_step=True))(ShortcutOutput(flat, ()), LABELS, 1.0)
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\), got \(4,\)"):
        sbp_keras.ShortcutLoss(LossSpec(per_step=True))(ShortcutOutput(steps, ()), np.zeros(4, int), 1.0)
    with pytest.raises(TypeError, match="must be integer classes"):
        sbp_keras.ShortcutLoss()(ShortcutOutput(flat, ()), np.zeros(2, "float32"), 1.0)
    with pytest.raises(ValueError, match=r"main logits, \(2, 3\); branch 0 has \(1, 3\)"):
        sbp_keras.ShortcutLoss()(ShortcutOutput(flat, (flat[:1],)), LABELS, 1.0)
    with pytest.raises(ValueError, match="coefficient must be a scalar"):
        sbp_keras.ShortcutLoss()(ShortcutOutput(flat, (flat,)), LABELS, np.ones(3))


def soft_labels(batch=2, classes=3):
    labels = RANDOM.uniform(size=(batch, classes))
    labels[0, 1] = 0.0
    return labels / labels.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_soft_labels_and_smoothing_are_the_references(combine, per_step):
    spec = LossSpec(combine=combine, per_step=per_step, label_smoothing=0.2)
    main, branch = RANDOM.normal(size=(2, 4, 2, 3) if per_step else (2, 2, 3))
    parts = [np.swapaxes(part, 0, 1) if per_step else part for part in (main, branch)]
    output = ShortcutOutput(*(ops.convert_to_tensor(part, "float32") for part in parts))
    for labels in (LABELS, soft_labels()):
        expected, *_ = losses.loss_of(spec, main, [branch], labels, 0.75)
        found = sbp_keras.ShortcutLoss(spec)(output._replace(branches=(output.branches,)), labels, 0.75)
        assert float(found) == pytest.approx(expected, rel=1e-6)


# what follows is the compiled loss


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def make_model(loss, spec, steps=4, metrics=()):
    inputs = keras.Input((steps, 5))
    spikes = sbp_keras.LIF(surrogate="triangle", name="fire")(keras.layers.Dense(6)(inputs))
    net = keras.Model(inputs, sbp_keras.Readout(3, name="head")(spikes))
    model = sbp_keras.ShortcutModel(net, ["fire"], 3, loss_spec=spec, coefficient=0.3)
    model.compile(keras.optimizers.SGD(0.0), loss, weighted_metrics=list(metrics))
    return model


def found(model, x, y, weights=None):
    output = model(x, training=True)
    loss = model.compute_loss(x, ops.convert_to_tensor(y), output, weights)
    parts = output if isinstance(output, ShortcutOutput) else ShortcutOutput(output, ())
    return float(loss), [numpy(parts.main), *map(numpy, parts.branches)]


SPECS = {
    "logits": LossSpec(combine="logits"),
    "losses": LossSpec(combine="losses"),
    "per step": LossSpec(combine="logits", per_step=True, level_weight=0.0),
    "losses per step": LossSpec(combine="losses", per_step=True, level_weight=0.2),
    "distilled": LossSpec(combine="losses", distillation=0.4, temperature=2.0),
}


def by_hand(spec, parts, entropy):
    """The composed loss; ``entropy`` gives that of logits ``(batch, [time,] classes)``."""

    def supervised(logits):
        if not spec.per_step:
            return entropy(logits)
        level = np.mean((logits - spec.level) ** 2)
        return (1 - spec.level_weight) * entropy(logits) + spec.level_weight * level

    main, *branches = parts
    if not branches:
        return supervised(main)

    def of_branch(logits):
        log_p, log_q = log_softmax(main / spec.temperature), log_softmax(logits / spec.temperature)
        distance = spec.temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
        return (1 - spec.distillation) * supervised(logits) + spec.distillation * distance

    return supervised(main) + 0.3 * sum(map(of_branch, branches))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_soft_labels_with_a_compiled_loss(spec):
    x, y = RANDOM.normal(size=(4, 4, 5)).astype("float32"), soft_labels(4)
    model = make_model(keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), spec)
    target = 0.9 * y + 0.1 / 3

    def entropy(logits):
        each = target[:, None] if spec.per_step else target
        return -(each * log_softmax(logits)).sum(axis=-1).mean()

    loss, parts = found(model, x, y.astype("float32"))
    assert loss == pytest.approx(by_hand(spec, parts, entropy), rel=1e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_label_smoothing_of_the_spec_has_the_weights_of_the_samples(spec):
    spec = spec.replace(label_smoothing=0.2)
    x, y, weights = RANDOM.normal(size=(4, 4, 5)).astype("float32"), np.array([0, 2, 1, 1]), np.array([1.0, 3.0, 0, 2])
    for reduction in ("sum_over_batch_size", "sum"):
        model = make_model(keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction), spec)
        target = 0.8 * np.eye(3)[y] + 0.2 / 3

        def entropy(logits, target=target, times=4 if reduction == "sum" else 1):
            each, share = (target[:, None], weights[:, None]) if spec.per_step else (target, weights)
            return times * (share * -(each * log_softmax(logits)).sum(axis=-1)).mean()

        loss, parts = found(model, x, y, weights.astype("float32"))
        assert loss == pytest.approx(by_hand(spec, parts, entropy), rel=1e-5)
        # not outside training
        plain = float(model.compute_loss(x, ops.convert_to_tensor(y), model(x), None, training=False))
        main = numpy(model(x))
        times = 4 if reduction == "sum" else 1
        assert plain == pytest.approx(-times * log_softmax(main)[np.arange(4), y].mean(), rel=1e-5)


TAUGHT = {
    "reliable": LossSpec(distillation=0.4, teacher="right"),
    "reliable, every step": LossSpec(per_step=True, level_weight=0.2, distillation=0.4, teacher="right"),
    "strong to weak": LossSpec(combine="logits", step_distillation=0.5, temperature=2.0),
    "weak to strong, distilled": LossSpec(step_distillation=0.5, step_teacher="weak", distillation=0.3),
    "right to wrong, smoothed": LossSpec(step_distillation=0.5, step_teacher="right", label_smoothing=0.2),
}


@pytest.mark.parametrize("spec", TAUGHT.values(), ids=TAUGHT)
def test_teachers_that_are_right_or_sure_are_the_references(spec):
    x, y = RANDOM.normal(size=(6, 4, 5)).astype("float32"), np.array([0, 2, 1, 1, 0, 2])
    one_hot = np.eye(3, dtype="float32")[y]
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for loss, labels in ((sparse, y), (sparse, y[:, None]), (keras.losses.CategoricalCrossentropy(True), one_hot)):
        model = make_model(loss, spec)
        value, parts = found(model, x, labels)
        parts = [np.swapaxes(part, 0, 1) if part.ndim == 3 else part for part in parts]
        expected, *_ = losses.loss_of(spec, parts[0], parts[1:], y, 0.3)
        assert value == pytest.approx(expected, rel=1e-5)
        logs = model.train_on_batch(x, labels, return_dict=True)
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    # and in a loop of one's own
    output = model(x, training=True)
    output = output if isinstance(output, ShortcutOutput) else ShortcutOutput(output, ())
    for labels in (y, one_hot):
        assert float(sbp_keras.ShortcutLoss(spec)(output, labels, 0.3)) == pytest.approx(expected, rel=1e-5)


def test_what_teachers_cannot_be_asked_of_is_refused():
    x, y = RANDOM.normal(size=(2, 4, 5)).astype("float32"), np.array([0, 2])
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = make_model(sparse, TAUGHT["strong to weak"])
    with pytest.raises(ValueError, match="unless loss_spec is per_step"):
        found(model, x, y, np.ones((2, 4), "float32"))
    masked = sbp_keras.ShortcutModel(
        masked_net(sbp_keras.Readout(3, name="head")), ["fire"], 3, loss_spec=TAUGHT["strong to weak"]
    )
    masked.compile(keras.optimizers.SGD(0.0), sparse)
    with pytest.raises(ValueError, match="step_distillation must be 0 where a mask leaves steps out, got"):
        found(masked, masked_data()[0], np.array([0, 2, 1]))
    with pytest.raises(ValueError, match=r"labels must be one array, .* got \[\(2, 3, 1\)\]"):
        classes_of(np.zeros((2, 3, 1)))


@pytest.mark.parametrize("batch", [4, 6])
@pytest.mark.parametrize("name", ["per step", "losses per step"])
def test_weights_of_each_step_are_each_steps(name, batch):
    # where batch == time they were once taken for those of the samples
    x, y = RANDOM.normal(size=(batch, 4, 5)).astype("float32"), RANDOM.integers(0, 3, batch)
    model = make_model(keras.losses.SparseCategoricalCrossentropy(from_logits=True), SPECS[name], metrics=["accuracy"])
    for weights in (RANDOM.uniform(size=(batch, 4)), RANDOM.uniform(size=batch), RANDOM.uniform(size=(batch, 1))):
        each = np.broadcast_to(weights.reshape(batch, -1), (batch, 4))

        def entropy(logits, each=each):
            return np.mean(each * -np.take_along_axis(log_softmax(logits), y[:, None, None], axis=-1)[..., 0])

        loss, parts = found(model, x, y, weights.astype("float32"))
        assert loss == pytest.approx(by_hand(SPECS[name], parts, entropy), rel=1e-5)
    logs = model.train_on_batch(x, y, sample_weight=np.ones((batch, 4), "float32"), return_dict=True)
    assert logs["loss"] == pytest.approx(by_hand(SPECS[name], parts, lambda o: entropy(o, 1.0)), rel=1e-5)
    with pytest.raises(ValueError, match="with the 4 steps of the logits"):
        found(model, x, y, np.ones((batch, 3), "float32"))
    flat = make_model(keras.losses.SparseCategoricalCrossentropy(from_logits=True), SPECS["losses"])
    with pytest.raises(ValueError, match="unless loss_spec is per_step"):
        found(flat, x, y, np.ones((batch, 4), "float32"))


def test_sequences_of_any_length_are_supervised_step_by_step():
    spec = SPECS["losses per step"]
    model = make_model(keras.losses.SparseCategoricalCrossentropy(from_logits=True), spec, steps=None)
    y = np.array([0, 2, 1])
    for steps in (2, 5):
        x = RANDOM.normal(size=(3, steps, 5)).astype("float32")
        _, parts = found(model, x, y)
        logs = model.train_on_batch(x, y, return_dict=True)

        def entropy(logits):
            return -np.take_along_axis(log_softmax(logits), y[:, None, None], axis=-1).mean()

        assert parts[0].shape == (3, steps, 3)
        assert logs["loss"] == pytest.approx(by_hand(spec, parts, entropy), rel=1e-5)


# masks


def masked_net(head):
    inputs = keras.Input((4, 5))
    states = keras.layers.LSTM(6, return_sequences=True, name="lstm")(keras.layers.Masking()(inputs))
    wide = keras.layers.Dense(5, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0))
    spikes = sbp_keras.LIF(surrogate="triangle", name="fire")(wide(states))
    return keras.Model(inputs, head(spikes))


LENGTHS = np.array([2, 4, 1])
VALID = (np.arange(4) < LENGTHS[:, None]).astype("float64")


def masked_data():
    x = RANDOM.normal(size=(3, 4, 5)) * VALID[..., None]
    return x.astype("float32"), np.array([0, 2, 1])


@pytest.mark.parametrize("branch", ["linear", "own"])
def test_a_mask_goes_through_net_and_branches(branch):
    x, _ = masked_data()
    net = masked_net(sbp_keras.Readout(3, name="head"))
    own = {tap: sbp_keras.Readout(3) for tap in ("lstm", "fire")}
    model = sbp_keras.ShortcutModel(
        net, ["lstm", "fire"], 3, "losses", branch=own if branch == "own" else branch, time_axis=1
    )
    output = model(x, training=True)
    np.testing.assert_allclose(numpy(output.main), numpy(net(x, training=True)), rtol=0, atol=1e-6)
    blocks = keras.Model(net.input, [net.get_layer(tap).output for tap in ("lstm", "fire")])(x)
    heads = [*model.branches, net.get_layer("head")]
    for logits, block, layer in zip([*output.branches, output.main], [*blocks, blocks[1]], heads, strict=True):
        steps = numpy(block) @ numpy(layer.kernel) + numpy(layer.bias)
        expected = (steps * VALID[..., None]).sum(axis=1) / LENGTHS[:, None]
        np.testing.assert_allclose(numpy(logits), expected, rtol=0, atol=1e-5)
    # said in the call, where nothing in the net makes one
    plain = keras.Input((4, 5))
    bare = keras.Model(plain, sbp_keras.Readout(3)(sbp_keras.LIF(name="fire")(plain)))
    wrapped = sbp_keras.ShortcutModel(bare, ["fire"], 3, coefficient=0.0)
    for training in (False, True):
        found = numpy(wrapped(x, training=training, mask=ops.convert_to_tensor(VALID > 0)))
        np.testing.assert_allclose(found, numpy(bare(x, mask=ops.convert_to_tensor(VALID > 0))), rtol=0, atol=1e-6)
    assert np.abs(found - numpy(bare(x))).max() > 1e-3


@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_steps_that_a_mask_leaves_out_are_not_supervised(combine):
    x, y = masked_data()
    spec = LossSpec(combine=combine, per_step=True, level_weight=0.2)
    model = sbp_keras.ShortcutModel(
        masked_net(sbp_keras.Readout(3, name="head")), ["fire"], 3, loss_spec=spec, coefficient=0.3
    )
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss, (main, *branches) = found(model, x, y)
    share = VALID / LENGTHS[:, None] / 3

    def supervised(logits):
        entropy = -np.take_along_axis(log_softmax(logits), y[:, None, None], axis=-1)[..., 0]
        level = ((logits - 1.0) ** 2).mean(axis=-1)
        return (share * (0.8 * entropy + 0.2 * level)).sum()

    assert loss == pytest.approx(supervised(main) + 0.3 * sum(map(supervised, branches)), rel=1e-5)
    assert model.train_on_batch(x, y, return_dict=True)["loss"] == pytest.approx(loss, rel=1e-5)
