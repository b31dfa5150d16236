"""Losses against optax's own: soft labels, label smoothing, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sbp_jax
from sbp_core import LossSpec

RNG = np.random.default_rng(59)
LABELS = jnp.array([2, 0])
SOFT = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
MAIN, BRANCH = jnp.asarray(RNG.normal(size=(2, 2, 3)), jnp.float32)
STEPS = jnp.asarray(RNG.normal(size=(4, 2, 3)), jnp.float32)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_soft_labels_and_label_smoothing_are_optaxs_own(labels, smoothing, combine):
    targets = optax.smooth_labels(labels if labels.ndim == 2 else jax.nn.one_hot(labels, 3), smoothing)

    def entropy(logits):
        return optax.softmax_cross_entropy(logits, targets).mean()

    def wanted(main, branch):
        return entropy(main + 0.25 * branch) if combine == "logits" else entropy(main) + 0.25 * entropy(branch)

    def found(main, branch):
        criterion = sbp_jax.ShortcutLoss(LossSpec(combine=combine, label_smoothing=smoothing))
        return criterion(sbp_jax.ShortcutOutput(main, (branch,)), labels, 0.25)

    ours, theirs = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(MAIN, BRANCH) for f in (found, wanted))
    for got, leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(got, leaf, rtol=1e-5, atol=1e-7)


def test_soft_labels_hold_for_every_step_and_a_masked_class_leaves_them_finite():
    loss = sbp_jax.ShortcutLoss(LossSpec(per_step=True, level_weight=0.0))
    found = loss(sbp_jax.ShortcutOutput(STEPS, ()), SOFT, 1.0)
    np.testing.assert_allclose(found, optax.softmax_cross_entropy(STEPS, jnp.stack([SOFT] * 4)).mean(), rtol=1e-6)
    masked = jnp.array([[0.0, 1.0, -jnp.inf]])
    value, gradient = jax.value_and_grad(
        lambda main: sbp_jax.ShortcutLoss()(sbp_jax.ShortcutOutput(main, ()), SOFT[:1], 1.0)
    )(masked)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("branch", "labels", "coefficient", "error", "message"),
    [
        (jnp.ones((2, 1)), LABELS, 0.5, ValueError, r"main logits, \(2, 3\); branch 0 has \(2, 1\)"),
        (jnp.ones((2, 5)), LABELS, 0.5, ValueError, r"branch 0 has \(2, 5\)"),
        (MAIN, SOFT[:, :2], 0.5, ValueError, r"labels must have shape \(2, 3\), got \(2, 2\)"),
        (MAIN, jnp.ones(2), 0.5, TypeError, "must be integer classes, got float32; soft labels have shape"),
        (MAIN, SOFT.astype(int), 0.5, TypeError, "must be floating probabilities"),
        (MAIN, LABELS, jnp.ones(2), ValueError, r"coefficient must be a scalar, got shape \(2,\)"),
        (MAIN, LABELS, float("nan"), ValueError, "coefficient must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(branch, labels, coefficient, error, message):
    with pytest.raises(error, match=message):
        sbp_jax.ShortcutLoss()(sbp_jax.ShortcutOutput(MAIN, (branch,)), labels, coefficient)


def test_the_coefficient_never_vanishes_in_integer_logits():
    params = sbp_jax.branches.init(jax.random.key(0), {"a": 3}, 3)
    with pytest.raises(TypeError, match="logits must hold floating-point numbers"):
        sbp_jax.branches.apply(params, jnp.ones((2, 3), int), {"a": MAIN}, 0.25, time_axis=None)
