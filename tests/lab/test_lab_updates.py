"""Trainers' updates against their formulas in float64 NumPy, in every framework."""

import os
import subprocess
import sys

import numpy as np
import pytest

from sbp_core import LossSpec
from sbp_core.specs.networks.mlp import MLPSpec
from sbp_core.specs.networks.vgg import VGGSpec
from sbp_lab import trainers
from sbp_lab.optimizers import SGD, AdamW
from sbp_lab.trainers import NotFiniteError, OwnNetwork, TrainerOptions

SPEC = MLPSpec(hidden=(6,), size=(4, 4), num_classes=3, time_steps=2)
GENERATOR = np.random.default_rng(4)
IMAGES = (GENERATOR.standard_normal((6, 4, 4, 1)) * 2.0).astype(np.float32)
LABELS = GENERATOR.integers(0, 3, 6)
BACKENDS = ["jax", "tf", "torch"]


def make(backend, spec=SPEC, weights=None, **options):
    return trainers.load(backend).make_trainer(spec, weights, TrainerOptions(**options))


class Oracle:
    """AdamW, SGD, clipping and the running mean as their papers and PyTorch's documentation have them."""

    def __init__(self, optimizer, weights, clip_norm, ema):
        self.optimizer, self.clip_norm, self.ema, self.k = optimizer, clip_norm, ema, 0
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self.mean = dict(self.weights)
        self.slots = {name: [0.0, 0.0] for name in weights}

    def step(self, gradients, rate):
        o, self.k = self.optimizer, self.k + 1
        norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradients.values()))
        factor = 1.0 if self.clip_norm is None else min(1.0, self.clip_norm / norm)
        for name, found in gradients.items():
            g, w, slots = found.astype(np.float64) * factor, self.weights[name], self.slots[name]
            if isinstance(o, AdamW):
                w = w - rate * o.weight_decay * w
                slots[0] = o.beta1 * slots[0] + (1 - o.beta1) * g
                slots[1] = o.beta2 * slots[1] + (1 - o.beta2) * g**2
                m, v = slots[0] / (1 - o.beta1**self.k), slots[1] / (1 - o.beta2**self.k)
                w = w - rate * m / (np.sqrt(v) + o.epsilon)
            else:
                g = g + o.weight_decay * w
                slots[0] = o.momentum * slots[0] + g
                w = w - rate * (g + o.momentum * slots[0] if o.nesterov else slots[0])
            self.weights[name] = w
            if self.ema is not None:
                self.mean[name] = self.ema * self.mean[name] + (1 - self.ema) * w
        return norm


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("optimizer", "clip_norm", "ema"),
    [
        # an epsilon that shows where it is added
        (AdamW(weight_decay=0.1, beta1=0.8, beta2=0.99, epsilon=1e-2), 0.05, 0.9),
        (SGD(weight_decay=0.1, momentum=0.8, nesterov=True), None, None),
        (SGD(weight_decay=0.1, momentum=0.8), 0.05, None),
        (SGD(weight_decay=0.1, momentum=0.0), None, None),
    ],
    ids=["adamw", "nesterov", "momentum", "plain"],
)
def test_a_step_is_what_the_formulas_give_in_every_framework(backend, optimizer, clip_norm, ema):
    if backend != "torch" and isinstance(optimizer, SGD) and not optimizer.nesterov:
        pytest.skip("a part of nesterov's there, and compiling takes long")
    trainer = make(backend, optimizer=optimizer, clip_norm=clip_norm, ema=ema)
    oracle = Oracle(optimizer, trainer.weights(), clip_norm, ema)
    for step in (1, 2, 3):
        # another rate in each: momentum must not hold it
        gradients, rate = trainer.gradients(IMAGES, LABELS, 0.0), 0.05 / step
        norm = oracle.step(gradients, rate)
        assert trainer.train_step(IMAGES, LABELS, 0.0, rate, step).gradient == pytest.approx(norm, rel=1e-5)
        if clip_norm is not None:
            assert norm > clip_norm
    state = trainer.state()
    assert state["optimizer/step"] == 3
    slots = ("m", "v") if isinstance(optimizer, AdamW) else ("momentum",) * (optimizer.momentum > 0.0)
    for name, array in oracle.weights.items():
        np.testing.assert_allclose(state[f"weights/{name}"], array, rtol=2e-5, atol=1e-7, err_msg=name)
        for slot, held in zip(slots, oracle.slots[name], strict=False):
            found = state[f"optimizer/{slot}/weights/{name}"]
            np.testing.assert_allclose(found, held, rtol=2e-5, atol=1e-8, err_msg=f"{slot} {name}")
        if ema is not None:
            np.testing.assert_allclose(state[f"ema/weights/{name}"], oracle.mean[name], rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(trainer.weights()[name], state[f"ema/weights/{name}"])


def test_states_have_the_same_names_and_shapes_in_every_framework_and_travel():
    options = {"taps": ("hidden1",), "ema": 0.5, "precision": "float16"}
    made = {backend: make(backend, **options) for backend in BACKENDS}
    for k in (1, 2):
        result = made["torch"].train_step(IMAGES, LABELS, 0.5, 1e-3, k)
    assert result.accuracy in (np.arange(7) / 6).tolist()
    state = made["torch"].state()
    assert {"branches/hidden1.weight", "optimizer/v/branches/hidden1.bias", "ema/weights/head.weight"} < set(state)
    for backend in ("jax", "tf"):
        trainer = made[backend]
        assert {name: array.shape for name, array in trainer.state().items()} == {
            name: array.shape for name, array in state.items()
        }
        trainer.load_state(state)
        for name, array in trainer.state().items():
            np.testing.assert_array_equal(array, state[name], err_msg=f"{backend} {name}")
        with pytest.raises(ValueError, match=r"missing: 'weights/head\.bias'"):
            trainer.load_state({name: array for name, array in state.items() if name != "weights/head.bias"})
    steps = [trainer.train_step(IMAGES, LABELS, 0.5, 1e-3, 3).loss for trainer in made.values()]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_of_a_batch_give_the_mean_of_their_gradients_and_its_statistics(backend):
    spec = VGGSpec(stages=((3,),), size=(4, 4), in_channels=1, num_classes=3, time_steps=2)
    options = {"optimizer": SGD(momentum=0.0, weight_decay=0.0), "ema": 0.75}
    whole = make(backend, spec, **options)
    split = make(backend, spec, accumulate=2, **options)
    halves = [whole.gradients(IMAGES[part], LABELS[part], 0.0) for part in (slice(0, 3), slice(3, 6))]
    before = split.state()
    split.train_step(IMAGES, LABELS, 0.0, 0.5, 1)
    after = split.state()
    for name, gradient in halves[0].items():
        moved = before[f"weights/{name}"] - after[f"weights/{name}"]
        np.testing.assert_allclose(moved, 0.5 * (gradient + halves[1][name]) / 2, rtol=1e-4, atol=1e-6, err_msg=name)
    for name in ("weights/stage1.0.bn.running_mean", "weights/stage1.0.bn.running_var"):
        if name in after:
            assert not np.allclose(after[name], before[name])
            mean = 0.75 * before[name] + 0.25 * after[name]
            np.testing.assert_allclose(after[f"ema/{name}"], mean, rtol=1e-5, atol=1e-7)
    assert any(".running_" in name for name in after)
    with pytest.raises(ValueError, match="accumulate must divide the batch of 5 samples, got 2"):
        split.train_step(IMAGES[:5], LABELS[:5], 0.0, 0.5, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_soft_labels_of_one_class_are_that_class(backend):
    soft = np.eye(3, dtype=np.float32)[LABELS]
    # in Keras a net with branches has another loss than one without
    apart = {"taps": ("hidden1",), "loss": LossSpec(combine="losses", label_smoothing=0.1)}
    for options in ({}, apart) if backend == "tf" else (apart,):
        hard = make(backend, **options).train_step(IMAGES, LABELS, 0.5, 0.01, 1)
        np.testing.assert_allclose(make(backend, **options).train_step(IMAGES, soft, 0.5, 0.01, 1), hard, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_depends_on_seed_and_step_alone(backend):
    spec = VGGSpec(
        stages=((8,),), size=(4, 4), in_channels=1, num_classes=3, time_steps=1, dropout=0.5, drop_features=True
    )

    def losses(seed, steps):
        trainer = make(backend, spec, weights=make("torch", spec).weights(), seed=seed)
        return [trainer.train_step(IMAGES, LABELS, 0.0, 0.0, step).loss for step in steps]

    first = losses(1, (1, 2, 1, 7))
    assert first[0] == first[2]
    assert len({first[0], first[1], first[3]}) > 1
    assert losses(1, (7, 2))[::-1] == [first[1], first[3]]
    assert losses(2, (1, 2, 3)) != losses(1, (1, 2, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_is_told_by_its_first_layer_and_leaves_the_weights(backend):
    trainer = make(backend, clip_norm=1.0)
    before = trainer.state()
    wrong = IMAGES.copy()
    wrong[2, 1, 1, 0] = np.nan
    with pytest.raises(NotFiniteError, match=r"in step 3: the batch itself has 1 of 96 values that are not finite"):
        trainer.train_step(wrong, LABELS, 0.0, 0.01, 3)
    for name, array in trainer.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    trainer.load_state({**before, "weights/hidden1.fc.weight": np.ones((6, 16), np.float32)})
    with pytest.raises(NotFiniteError, match=r"the first layer that gave a value that is not finite is 'hidden1\.fc'"):
        trainer.train_step(np.full_like(IMAGES, 3e38), LABELS, 0.0, 0.01, 4)
    trainer.load_state({**before, "weights/head.weight": before["weights/head.weight"] * np.float32(np.inf)})
    with pytest.raises(NotFiniteError, match=r"the first weight that was not finite before the step is .*head\.weight"):
        trainer.train_step(IMAGES, LABELS, 0.0, 0.01, 5)


OWN = {
    "torch": """
import torch, sbp_torch
def net(num_classes, in_channels, size):
    layers = [torch.nn.Flatten(), torch.nn.Linear(in_channels * size[0] * size[1], 5), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(5, num_classes))
""",
    "jax": """
from flax import nnx
class Net(nnx.Module):
    def __init__(self, inputs, classes, rngs):
        self.one, self.two = nnx.Linear(inputs, 5, rngs=rngs), nnx.Linear(5, classes, rngs=rngs)
    def __call__(self, x):
        return self.two(nnx.relu(self.one(x.reshape(len(x), -1))))
def net(num_classes, in_channels, size, *, rngs):
    return Net(in_channels * size[0] * size[1], num_classes, rngs)
""",
    "tf": """
import keras
def net(num_classes, in_channels, size):
    x = inputs = keras.Input((*size, in_channels))
    x = keras.layers.Dense(5, activation="relu")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))
""",
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_of_ones_own_trains_and_goes_on_from_its_state(backend, tmp_path, monkeypatch):
    (tmp_path / f"own_{backend}.py").write_text(OWN[backend])
    monkeypatch.chdir(tmp_path)
    own = OwnNetwork(function=f"own_{backend}:net", num_classes=3, in_channels=1, size=(4, 4))
    first, second = make(backend, own, seed=1), make(backend, own, seed=2)
    assert first.spec is None
    losses = [first.train_step(IMAGES, LABELS, 0.0, 0.05, k).loss for k in range(1, 5)]
    assert losses[-1] < losses[0]
    second.load_state(first.state())
    assert second.train_step(IMAGES, LABELS, 0.0, 0.05, 5) == first.train_step(IMAGES, LABELS, 0.0, 0.05, 5)
    np.testing.assert_array_equal(second.predict(IMAGES), first.predict(IMAGES))
    assert len(first.firing_rates(IMAGES)) == 0


def test_a_network_of_ones_own_that_cannot_be_had_is_told():
    def own(function):
        return OwnNetwork(function=function, num_classes=3, in_channels=1, size=(4, 4))

    with pytest.raises(ValueError, match="must be a name as 'module:function', got 'here'"):
        own("here")
    with pytest.raises(ValueError, match="there is no 'nowhere_at_all' in"):
        own("nowhere_at_all:net").make()
    with pytest.raises(ValueError, match=r"must name a function of .*which has no 'nothing'"):
        own("sbp_core:nothing").make()
    with pytest.raises(ValueError, match="it needs 'text'"):
        own("textwrap:dedent").make()


@pytest.mark.parametrize("backend", BACKENDS)
def test_firing_rates_are_those_of_the_neurons_in_order(backend):
    spec = MLPSpec(hidden=(6, 5), size=(4, 4), num_classes=3, time_steps=2)
    weights = make("torch", spec).weights()
    rates = make(backend, spec, weights=weights).firing_rates(IMAGES)
    assert list(rates) == ["hidden1.neuron", "hidden2.neuron"]
    # two steps by hand: u = 0.5 u + x, a spike above 1 empties it
    current = IMAGES.reshape(6, -1) @ weights["hidden1.fc.weight"].T + weights["hidden1.fc.bias"]
    first = current > 1.0
    second = 0.5 * np.where(first, 0.0, current) + current > 1.0
    assert rates["hidden1.neuron"] == pytest.approx((first.mean() + second.mean()) / 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_event_frames_are_batch_first_also_where_there_are_as_many_steps_as_samples(backend):
    spec = VGGSpec(stages=((3,),), size=(4, 4), in_channels=2, num_classes=3, time_steps=3)
    frames = np.random.default_rng(0).poisson(0.7, (3, 3, 4, 4, 2)).astype(np.float32)
    weights = make("torch", spec).weights()
    trainer = make(backend, spec, weights=weights, events=True)
    together = trainer.predict(frames)
    alone = np.concatenate([trainer.predict(frames[place : place + 1]) for place in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    other = make("torch", spec, weights=weights, events=True)
    losses = [each.train_step(frames, LABELS[:3], 0.0, 0.01, 1).loss for each in (trainer, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


SEVERAL = """
import sys
import numpy as np
backend, file, out = sys.argv[1:]
if backend == "keras":
    import keras
    keras.distribution.set_distribution(keras.distribution.DataParallel())
import jax
assert len(jax.devices()) == 2
from sbp_core.specs.networks.vgg import VGGSpec
from sbp_lab import trainers
held = np.load(file)
spec = VGGSpec(stages=((3,),), size=(4, 4), in_channels=1, num_classes=3, time_steps=2)
trainer = trainers.load(backend).make_trainer(spec, None, trainers.TrainerOptions(taps=("stage1",), clip_norm=0.1))
losses = [trainer.train_step(held["images"], held["labels"], 0.5, 0.01, k).loss for k in (1, 2, 3)]
np.savez(out, losses=losses, predicted=trainer.predict(held["images"]), **trainer.state())
"""


@pytest.mark.parametrize("backend", ["jax", "keras"])
def test_two_devices_train_as_one_does_its_batch_statistics_too(backend, tmp_path):
    spec = VGGSpec(stages=((3,),), size=(4, 4), in_channels=1, num_classes=3, time_steps=2)
    one = make("torch", spec, taps=("stage1",), clip_norm=0.1)
    losses = [one.train_step(IMAGES, LABELS, 0.5, 0.01, k).loss for k in (1, 2, 3)]
    np.savez(tmp_path / "in.npz", images=IMAGES, labels=LABELS)
    devices = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
    flags = {"XLA_FLAGS": devices, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", SEVERAL, backend, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    two = dict(np.load(tmp_path / "out.npz"))
    np.testing.assert_allclose(two["losses"], losses, rtol=1e-5)
    np.testing.assert_allclose(two["predicted"], one.predict(IMAGES), rtol=1e-4, atol=1e-6)
    for name, array in one.state().items():
        np.testing.assert_allclose(two[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
