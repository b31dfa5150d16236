"""The coefficient in ``fit``: assigned by a user's callback, logged, resumed; on whichever backend Keras is set to."""

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import Constant, Evolutionary, Following

X = np.random.default_rng(0).normal(size=(24, 3, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 24)


def make_net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 4))
    spikes = sbp_keras.LIF(surrogate="triangle", name="fire")(keras.layers.Dense(5)(inputs))
    return keras.Model(inputs, sbp_keras.Readout(3)(spikes))


def make_model(optimizer=None, net=None, **options):
    model = sbp_keras.ShortcutModel(net or make_net(), ["fire"], 3, "losses")
    model.compile(
        optimizer or keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options
    )
    return model


def fit(model, schedule, *callbacks, first=0, epochs=2, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "initial_epoch": first} | options
    return model.fit(X, Y, epochs=epochs, callbacks=[sbp_keras.ShortcutCallback(schedule), *callbacks], **options)


def number(value):
    return float(ops.convert_to_numpy(value))


def losses_by_hand(model, coefficients):
    """The loss of each batch of 8, over and over, with the weights that do not move."""
    found = []
    for step, coefficient in enumerate(coefficients):
        rows = slice(8 * (step % 3), 8 * (step % 3) + 8)
        output = model(X[rows], training=True)
        parts = [model.loss(Y[rows], logits) for logits in (output.main, *output.branches)]
        found.append(number(parts[0]) + coefficient * number(parts[1]))
    return found


class Batches(keras.callbacks.Callback):
    """The logs of every batch, and the loss of each, undone from the running mean."""

    def __init__(self):
        super().__init__()
        self.logs, self.losses = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))
        sums = [log["loss"] * (index % 3 + 1) for index, log in enumerate(self.logs)]
        self.losses.append(sums[-1] - (sums[-2] if batch and len(sums) > 1 else 0.0))


@pytest.mark.parametrize("when", ["on_train_batch_begin", "on_train_batch_end"])
def test_what_a_callback_assigns_is_used_from_the_next_step_on(when):
    model = make_model()
    taken = []

    class Own(keras.callbacks.Callback):
        """Of a user who keeps a reference to the model."""

    def assign(self, batch, logs=None):
        model.coefficient.assign(model.coefficient + 0.5)
        taken.append(number(model.coefficient))

    setattr(Own, when, assign)
    batches = Batches()
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[Own(), batches])
    assert taken == [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    used = taken if when == "on_train_batch_begin" else [1.0, *taken[:-1]]
    np.testing.assert_allclose(batches.losses, losses_by_hand(model, used), rtol=0, atol=2e-5)
    assert number(model.coefficient) == 4.0


@pytest.mark.parametrize("window", [None, 2])
def test_the_logs_of_a_batch_have_the_coefficient_of_its_step(window):
    model = make_model(keras.optimizers.SGD(0.0, gradient_accumulation_steps=window))
    batches = Batches()
    history = fit(model, Evolutionary(initial=1.0), batches).history
    logged = [log["coefficient"] for log in batches.logs]
    assert logged == pytest.approx([1 - k / 6 for k in ([2, 2, 4, 4, 6, 6] if window else range(1, 7))], abs=1e-7)
    np.testing.assert_allclose(batches.losses, losses_by_hand(model, logged), rtol=0, atol=2e-5)
    assert history["coefficient"] == pytest.approx(logged[2::3])


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras runs one step at a time on PyTorch")
def test_the_logs_have_the_coefficient_where_steps_run_together():
    batches = Batches()
    model = make_model(steps_per_execution=2)
    model.schedule = Evolutionary(initial=1.0, total_steps=6)
    fit(model, None, batches)
    assert [log["coefficient"] for log in batches.logs][1::2] == pytest.approx([0.5, 0.0], abs=1e-7)


def test_our_callback_lets_keras_dispatch_logs_by_itself():
    assert sbp_keras.ShortcutCallback(Constant(value=1.0)).async_safe


@pytest.mark.parametrize("restored", ["in one process", "from a file", "by BackupAndRestore"])
def test_a_fit_that_would_move_the_coefficient_is_refused(tmp_path, restored):
    model, schedule = make_model(), Evolutionary(initial=0.5)
    backup = [keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)]
    fit(model, schedule.replace(total_steps=12), *backup)
    if restored == "from a file":
        model.save(tmp_path / "middle.keras")
        model = keras.models.load_model(tmp_path / "middle.keras")
    if restored == "by BackupAndRestore":
        model = make_model()
    else:
        backup = []
    message = "took 6 steps, the last with coefficient 0.25, and .*total_steps=18.* would go on from 0.33"
    with pytest.raises(ValueError, match=message):
        fit(model, schedule, *backup, first=2, epochs=6)
    assert number(model.coefficient) == 0.25
    # the same training, said in words or by the number of its epochs; what the model has; and a new one from the start
    assert fit(model, schedule, first=2, epochs=4).history["coefficient"] == pytest.approx([0.125, 0.0])
    if restored == "in one process":
        again = fit(model, schedule, epochs=1).history
        assert again["coefficient"] == [0.0]


def test_a_fit_with_other_batches_says_that_the_coefficient_moves():
    model, schedule = make_model(), Evolutionary(initial=0.5, total_steps=12)
    fit(model, schedule)
    with pytest.warns(UserWarning, match=r"took 6 steps, and this epoch begins at step 12.* from 0.25 to 0"):
        fit(model, schedule, first=2, epochs=3, batch_size=4)


def test_two_models_round_one_net_do_as_each_does_alone():
    net = make_net()
    first = make_model(keras.optimizers.SGD(0.5), net)
    second = make_model(keras.optimizers.SGD(0.5), net)
    own = [*second.branches[0].weights, second.coefficient]
    start = [np.asarray(ops.convert_to_numpy(weight)) for weight in own]
    fit(first, Evolutionary(initial=1.0))
    # the branch, the step and the coefficient of the other did not move
    for weight, before in zip(own, start, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), before)
    assert number(second.step) == 0
    one = make_model(keras.optimizers.SGD(0.5))
    for weight, other in zip(one.weights, second.weights, strict=True):
        weight.assign(np.array(ops.convert_to_numpy(other)))
    fit(second, Evolutionary(initial=1.0))
    fit(one, Evolutionary(initial=1.0))
    for weight, other in zip(one.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), ops.convert_to_numpy(other))
    assert first.strip() is second.strip() is net
    with pytest.raises(TypeError, match="net must not be a ShortcutModel"):
        sbp_keras.ShortcutModel(first, ["fire"], 3)


def test_a_model_that_was_not_compiled_counts_its_steps_too():
    model = sbp_keras.ShortcutModel(make_net(), ["fire"], 3, schedule=Evolutionary(initial=0.5, total_steps=4))
    for _ in range(2):
        model(X, training=True)
    assert (number(model.step), number(model.coefficient)) == (2, 0.25)


@pytest.mark.parametrize("measure", ["agreement", "share"])
def test_a_coefficient_follows_the_main_models_gradient(measure):
    model = make_model()
    look_at = [(X[:8], Y[:8])] * 2
    looked = []

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found = sbp_keras.diagnose(self.model.main, look_at)
            looked.append(getattr(found, f"early_{measure}"))

    schedule = Following(initial=0.6, target=2.0, every=4, smoothing=0.0, measure=measure)
    callback = sbp_keras.FollowingCallback(schedule, look_at)
    batches = Batches()
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[callback, Looks(), batches])
    assert looked[0] == pytest.approx(1.0) if measure == "agreement" else 0.1 < looked[0] < 0.9
    # after the first step, and after the fourth
    seen = [0.0, *[looked[0]] * 3, *[looked[3]] * 2]
    wanted = [0.6 * (1 - k / 6) * (1 - s / 2.0) for k, s in enumerate(seen, start=1)]
    np.testing.assert_allclose([log["coefficient"] for log in batches.logs], wanted, atol=1e-6)
    np.testing.assert_allclose(batches.losses, losses_by_hand(model, wanted), rtol=1e-4)
    with pytest.raises(TypeError, match="schedule must be a Following"):
        sbp_keras.FollowingCallback(Constant(), look_at)
