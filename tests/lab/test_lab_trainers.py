import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sbp_core import LossSpec, ResNetSpec
from sbp_core.reference.networks import initial_weights
from sbp_lab import trainers
from sbp_lab.optimizers import AdamW
from sbp_lab.trainers import TrainerOptions

SPEC = ResNetSpec(depths=(1, 1), widths=(4, 6), in_channels=1, num_classes=3, time_steps=2)
FOLLOWS = SPEC.replace(neuron=SPEC.neuron.replace(initial_follows=True))
TAPS = ("layer1",)
GENERATOR = np.random.default_rng(11)
IMAGES = GENERATOR.standard_normal((6, 8, 8, 1)).astype(np.float32)
LABELS = GENERATOR.integers(0, 3, 6)


def options(taps=TAPS, combine="logits", weight_decay=0.02, **more):
    loss, optimizer = LossSpec(combine=combine), AdamW(weight_decay=weight_decay)
    return TrainerOptions(**{"taps": taps, "loss": loss, "optimizer": optimizer} | more)


@pytest.fixture(scope="module", params=["jax", "tf", "torch"])
def make(request):
    module = trainers.load(request.param)

    def make_trainer(taps=TAPS, combine="logits", weights=None, weight_decay=0.02):
        weights = initial_weights(SPEC, 5, taps) if weights is None else weights
        return module.make_trainer(SPEC, weights, options(taps, combine, weight_decay))

    return make_trainer


def reference(weights, taps, combine, coefficient):
    """Loss of the first batch in float64 NumPy, from the equations alone; it shares nothing with the adapters."""

    def convolve(x, kernel, stride):
        size = kernel.shape[-1]
        half = size // 2
        x = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
        views = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
        return np.einsum("nchwij,ocij->nohw", views, kernel)

    def normalise(x):
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5)

    def fire(x):
        steps, potential = [], np.zeros_like(x[: len(x) // 2])
        for current in np.split(x, 2):
            potential = 0.5 * potential + current
            spikes = (potential > 1.0).astype(x.dtype)
            potential = potential * (1.0 - spikes)
            steps.append(spikes)
        return np.concatenate(steps)

    def read(x, name):
        logits = x.mean((2, 3)) @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return np.mean(np.split(logits, 2), axis=0)

    def cross_entropy(logits):
        shifted = logits - logits.max(1, keepdims=True)
        return np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(LABELS)), LABELS])

    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    x = normalise(convolve(np.transpose(IMAGES, (0, 3, 1, 2)).astype(np.float64), weights["main.stem.conv.weight"], 1))
    x = fire(np.concatenate([x, x]))
    branches = []
    for stage, stride in (("layer1", 1), ("layer2", 2)):
        prefix = f"main.{stage}.0"
        hidden = fire(normalise(convolve(x, weights[f"{prefix}.conv1.weight"], stride)))
        down = f"{prefix}.downsample.conv.weight"
        identity = normalise(convolve(x, weights[down], stride)) if down in weights else x
        x = fire(normalise(convolve(hidden, weights[f"{prefix}.conv2.weight"], 1)) + identity)
        if stage in taps:
            branches.append(read(x, f"branches.{stage}"))
    main = read(x, "main.head")
    if combine == "logits":
        return cross_entropy(main + coefficient * sum(branches))
    return cross_entropy(main) + coefficient * sum(cross_entropy(branch) for branch in branches)


@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_the_first_loss_is_what_the_equations_give_in_every_framework(make, combine):
    expected = reference(initial_weights(SPEC, 5, TAPS), TAPS, combine, 0.7)
    result = make(combine=combine).train_step(IMAGES, LABELS, 0.7, 0.01, 1)
    assert result.loss == pytest.approx(expected, rel=1e-5)


def test_the_norms_of_a_step_are_those_of_its_gradients(make):
    gradients = make().gradients(IMAGES, LABELS, 0.7)
    result = make().train_step(IMAGES, LABELS, 0.7, 0.01, 1)
    assert result.first_gradient == pytest.approx(np.linalg.norm(gradients["stem.conv.weight"].ravel()), rel=1e-5)
    assert result.last_gradient == pytest.approx(np.linalg.norm(gradients["head.weight"].ravel()), rel=1e-5)
    assert result.first_gradient > 0.0


def test_the_gradient_of_the_head_is_the_slope_of_the_reference_loss(make):
    gradients = make().gradients(IMAGES, LABELS, 0.7)
    slopes = []
    for index in range(3):
        losses = []
        for change in (1e-3, -1e-3):
            weights = dict(initial_weights(SPEC, 5, TAPS))
            weights["main.head.bias"] = weights["main.head.bias"] + np.eye(3)[index] * change
            losses.append(reference(weights, TAPS, "logits", 0.7))
        slopes.append((losses[0] - losses[1]) / 2e-3)
    np.testing.assert_allclose(gradients["head.bias"], slopes, rtol=1e-5)


def test_gradients_have_the_canonical_names_and_shapes(make):
    shapes = {name: array.shape for name, array in make().gradients(IMAGES, LABELS, 0.7).items()}
    assert shapes == {name: shape for name, shape in SPEC.parameter_shapes().items() if ".running_" not in name}


def test_asking_for_gradients_changes_nothing(make):
    trainer = make()
    trainer.gradients(IMAGES, LABELS, 0.7)
    np.testing.assert_array_equal(trainer.predict(IMAGES), make().predict(IMAGES))


def test_what_is_predicted_is_the_main_output_whatever_the_branches_hold(make):
    weights = initial_weights(SPEC, 5, TAPS)
    wild = {name: array * 1e6 if name.startswith("branches.") else array for name, array in weights.items()}
    alone = initial_weights(SPEC, 5)
    expected = make(taps=(), weights=alone).predict(IMAGES)
    np.testing.assert_allclose(make(weights=wild).predict(IMAGES), expected, rtol=1e-6, atol=1e-7)


def test_a_rate_of_zero_moves_the_running_statistics_and_no_weight(make):
    still = make()
    before = still.predict(IMAGES)
    first = still.train_step(IMAGES, LABELS, 0.7, 0.0, 1).loss
    assert still.train_step(IMAGES, LABELS, 0.7, 0.0, 1).loss == pytest.approx(first, rel=1e-6)
    assert not np.allclose(still.predict(IMAGES), before, rtol=1e-3)


def test_the_frameworks_walk_together_for_several_steps():
    walks = {}
    for name in trainers.TRAINERS:
        trainer = trainers.load(name).make_trainer(FOLLOWS, initial_weights(FOLLOWS, 5, TAPS), options())
        # at so small a rate no spike flips for it, and what is compared is AdamW, what runs along, and the coefficient
        walks[name] = [trainer.train_step(IMAGES, LABELS, 0.25 * (1 - k / 4), 1e-4, k + 1).loss for k in range(4)]
        walks[name].extend(trainer.predict(IMAGES)[0])
    for name in ("jax", "keras", "tf"):
        np.testing.assert_allclose(walks[name], walks["torch"], rtol=1e-5, err_msg=name)
    assert len(set(walks["torch"][:4])) == 4


def test_every_trainer_says_what_devices_it_sees():
    for name in trainers.TRAINERS:
        assert any("cpu" in device.lower() for device in trainers.load(name).devices())


def test_an_unknown_trainer_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="backend must be one of 'jax', 'keras', 'tf', 'torch'; got 'kera'"):
        trainers.load("kera")


ELSEWHERE = """
import json, sys
import numpy as np
from sbp_core import LossSpec, ResNetSpec
from sbp_core.reference.networks import initial_weights
from sbp_lab import trainers

spec, taps = ResNetSpec.from_json(sys.argv[1]), ("stem",)
images, labels = (np.asarray(value, dtype) for value, dtype in zip(json.loads(sys.argv[2]), ("float32", "int64")))
trainer = trainers.load("keras").make_trainer(
    spec, initial_weights(spec, 5, taps), trainers.TrainerOptions(taps=taps, loss=LossSpec(combine="losses"))
)
gradients = trainer.gradients(images, labels, 0.7)
steps = [trainer.train_step(images, labels, 0.7 / k, 1e-4, k) for k in (1, 2, 3)]
import keras
print(json.dumps([keras.backend.backend(), steps, trainer.predict(images).tolist(), gradients["head.weight"].tolist()]))
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_trains_alike_on_whichever_framework_it_is_set_to(backend):
    # one stage: PyTorch 2.13's own 1x1 convolution of stride 2, channels last, crashes on some processors
    spec, taps = FOLLOWS.replace(depths=(1,), widths=(4,)), ("stem",)
    # in a process of its own: Keras is set once
    arguments = [spec.to_json(), json.dumps([IMAGES.tolist(), LABELS.tolist()])]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    name, steps, predicted, gradient = json.loads(done.stdout.splitlines()[-1])
    assert name == backend
    same = trainers.load("torch").make_trainer(spec, initial_weights(spec, 5, taps), options(taps, "losses"))
    np.testing.assert_allclose(gradient, same.gradients(IMAGES, LABELS, 0.7)["head.weight"], rtol=1e-4, atol=1e-7)
    for k, step in enumerate(steps, start=1):
        np.testing.assert_allclose(step, same.train_step(IMAGES, LABELS, 0.7 / k, 1e-4, k), rtol=1e-4)
    np.testing.assert_allclose(predicted, same.predict(IMAGES), rtol=1e-4, atol=1e-6)


def test_tf_says_so_where_keras_was_imported_for_another_framework(monkeypatch):
    keras = pytest.importorskip("keras", reason="keras is not installed")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"Keras has been imported to run on jax: .* KERAS_BACKEND=tensorflow"):
        trainers.load("tf").use_tensorflow()


def test_a_lab_without_its_packages_names_the_extra(monkeypatch):
    import importlib.util

    import sbp_lab

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'cyclopts is not installed; .*"\.\[lab\]"'):
        importlib.reload(sbp_lab)
