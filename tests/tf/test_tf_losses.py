"""Losses against TensorFlow's own: soft labels, label smoothing, every step; and what does not fit."""

import numpy as np
import pytest
import tensorflow as tf

import sbp_tf
from sbp_core import LossSpec

RNG = np.random.default_rng(59)
LABELS = tf.constant([2, 0])
SOFT = tf.constant([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
MAIN, BRANCH = tf.unstack(tf.constant(RNG.normal(size=(2, 2, 3)), tf.float32))
STEPS = tf.constant(RNG.normal(size=(4, 2, 3)), tf.float32)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_soft_labels_and_label_smoothing_are_tensorflows_own(labels, smoothing, combine):
    shares = labels if labels.dtype.is_floating else tf.one_hot(labels, 3)
    entropy = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)

    def wanted(main, branch):
        if combine == "logits":
            return entropy(shares, main + 0.25 * branch)
        return entropy(shares, main) + 0.25 * entropy(shares, branch)

    @tf.function
    def found(main, branch):
        criterion = sbp_tf.ShortcutLoss(LossSpec(combine=combine, label_smoothing=smoothing))
        return criterion(sbp_tf.ShortcutOutput(main, (branch,)), labels, 0.25)

    pairs = []
    for loss in (found, wanted):
        with tf.GradientTape() as tape:
            tape.watch((MAIN, BRANCH))
            value = loss(MAIN, BRANCH)
        pairs.append((value, *tape.gradient(value, (MAIN, BRANCH))))
    for got, leaf in zip(*pairs, strict=True):
        np.testing.assert_allclose(got, leaf, rtol=1e-5, atol=1e-7)


def test_soft_labels_hold_for_every_step():
    loss = sbp_tf.ShortcutLoss(LossSpec(per_step=True, level_weight=0.0))
    wanted = tf.nn.softmax_cross_entropy_with_logits(tf.stack([SOFT] * 4), STEPS)
    np.testing.assert_allclose(loss(sbp_tf.ShortcutOutput(STEPS, ()), SOFT, 1.0), np.mean(wanted), rtol=1e-6)


@pytest.mark.parametrize(
    ("branch", "labels", "coefficient", "error", "message"),
    [
        (tf.ones((2, 1)), LABELS, 0.5, ValueError, r"main logits, \(2, 3\); branch 0 has \(2, 1\)"),
        (MAIN, SOFT[:, :2], 0.5, ValueError, r"labels must have shape \(2, 3\), got \(2, 2\)"),
        (MAIN, tf.ones(2), 0.5, TypeError, "must be integer classes, got float32; soft labels have shape"),
        (MAIN, LABELS, tf.ones(2), ValueError, r"coefficient must be a scalar, got shape \(2,\)"),
        (MAIN, LABELS, float("nan"), ValueError, "coefficient must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(branch, labels, coefficient, error, message):
    with pytest.raises(error, match=message):
        sbp_tf.ShortcutLoss()(sbp_tf.ShortcutOutput(MAIN, (branch,)), labels, coefficient)


def test_branches_of_another_batch_are_let_through_where_sizes_are_not_known():
    loss = sbp_tf.ShortcutLoss()
    signature = [tf.TensorSpec((None, 3)), tf.TensorSpec((2, 3)), tf.TensorSpec((None,), tf.int32)]

    @tf.function(input_signature=signature)
    def found(main, branch, labels):
        return loss(sbp_tf.ShortcutOutput(main, (branch,)), labels, 0.25)

    given = found(MAIN, BRANCH, LABELS)
    np.testing.assert_allclose(given, loss(sbp_tf.ShortcutOutput(MAIN, (BRANCH,)), LABELS, 0.25), rtol=1e-6)
