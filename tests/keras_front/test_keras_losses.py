"""Losses of a LossSpec in Keras's layout, time after the batch; on whichever backend Keras is set to."""

import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import LossSpec, ShortcutOutput
from sbp_core.reference import losses

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
    with pytest.raises(TypeError, match="labels must be integer classes"):
        sbp_keras.ShortcutLoss()(ShortcutOutput(flat, ()), np.zeros(2, "float32"), 1.0)
