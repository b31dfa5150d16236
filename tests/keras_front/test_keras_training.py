"""Training that is interrupted, saved, weighted, supervised step by step; on whichever backend Keras is set to."""

import importlib.util
import json
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import Constant, Cosine, Evolutionary
from sbp_core.specs.losses import LossSpec

TAPS, CLASSES, TIME = ["layer1", "layer2"], 3, 4
CELL = ("functional", f"Keras on {keras.backend.backend()}")


def make_net(**head):
    inputs = keras.Input((TIME, 6))
    x = inputs
    for layer in TAPS:
        x = keras.layers.Dense(5, kernel_initializer=keras.initializers.RandomNormal(stddev=0.8))(x)
        x = sbp_keras.LIF(surrogate="triangle", name=layer)(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, sbp_keras.Readout(CLASSES, name="head", **head)(x))


def make_model(optimizer=None, loss=None, metrics=("accuracy",), weighted=None, **options):
    keras.utils.set_random_seed(0)
    model = sbp_keras.ShortcutModel(make_net(), TAPS, CLASSES, **options)
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=list(metrics),
        weighted_metrics=weighted,
    )
    return model


def data(samples=12):
    rng = np.random.default_rng(0)
    return rng.normal(size=(samples, TIME, 6)).astype("float32"), rng.integers(0, CLASSES, samples)


def fit(model, first=0, last=4, schedule=None, callbacks=(), **options):
    x, y = data()
    ours = sbp_keras.ShortcutCallback(schedule or Evolutionary(initial=0.5))
    options = {"initial_epoch": first, "epochs": last, "batch_size": 4, "shuffle": False, "verbose": 0} | options
    return model.fit(x, y, callbacks=[ours, *callbacks], **options)


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def same_weights(one, other):
    assert len(one.weights) == len(other.weights)
    for first, second in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(first), ops.convert_to_numpy(second), err_msg=first.path)


@pytest.fixture(scope="module")
def uninterrupted():
    model = make_model()
    history = fit(model)
    return model, history


@pytest.mark.matrix(*CELL, "resumed from .keras")
@pytest.mark.parametrize("goes_on", ["a fit with the callback", "a fit without one"])
def test_a_model_saved_in_the_middle_resumes_bit_for_bit(tmp_path, uninterrupted, goes_on):
    whole, history = uninterrupted
    model = make_model()
    fit(model, 0, 2, Evolutionary(initial=0.5, total_steps=12))
    model.save(tmp_path / "middle.keras")
    loaded = keras.models.load_model(tmp_path / "middle.keras")
    assert loaded.schedule == Evolutionary(initial=0.5, total_steps=12, steps_per_epoch=3)
    assert (int(loaded.step), float(loaded.coefficient)) == (6, 0.25)
    if goes_on == "a fit with the callback":
        rest = fit(loaded, 2, 4).history
        assert rest["coefficient"] == history.history["coefficient"][2:]
    else:
        x, y = data()
        rest = loaded.fit(x, y, initial_epoch=2, epochs=4, batch_size=4, shuffle=False, verbose=0).history
        assert "coefficient" not in rest
    assert rest["loss"] == history.history["loss"][2:]
    same_weights(loaded, whole)


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.matrix(*CELL, "BackupAndRestore")
def test_a_backup_restores_an_interrupted_fit_bit_for_bit(tmp_path, uninterrupted):
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup"), Stop()])
    again = make_model()
    history = fit(again, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert history.epoch == [2, 3]
    same_weights(again, uninterrupted[0])


@pytest.mark.matrix(*CELL, "EarlyStopping")
def test_the_best_weights_come_back_with_their_step_and_a_checkpoint_is_the_same(tmp_path):
    x, y = data()
    model = make_model()
    path = tmp_path / "best.keras"
    # the validation labels are wrong, so training makes it worse after a while
    watch = {"monitor": "val_loss", "mode": "min"}
    callbacks = [
        keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True, **watch),
        keras.callbacks.ModelCheckpoint(path, save_best_only=True, **watch),
    ]
    history = fit(model, last=9, callbacks=callbacks, validation_data=(x, (y + 1) % CLASSES)).history
    best = int(np.argmin(history["val_loss"]))
    assert len(history["loss"]) == best + 3 < 9
    assert int(model.step) == 3 * (best + 1)
    assert float(model.coefficient) == pytest.approx(0.5 * (1 - 3 * (best + 1) / 27))
    saved = keras.models.load_model(path)
    same_weights(saved, model)
    np.testing.assert_array_equal(saved.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.matrix(*CELL, "TensorBoard")
def test_tensorboard_gets_the_coefficient(tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    fit(make_model(), last=1, callbacks=[keras.callbacks.TensorBoard(tmp_path)])
    assert any(b"coefficient" in path.read_bytes() for path in tmp_path.rglob("events*"))


def test_weights_of_samples_and_classes_and_every_metric():
    x, y = data()
    weights = np.linspace(0.5, 2.0, len(y)).astype("float32")
    classes = {0: 1.0, 1: 0.5, 2: 3.0}
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    model = make_model(keras.optimizers.SGD(0.0), metrics=["accuracy", top], weighted=["accuracy"], combine="losses")
    main, branches = (
        numpy(part) for part in (lambda out: (out.main, ops.stack(out.branches)))(model(x, training=True))
    )
    schedule = Constant(value=0.25)
    logs = fit(model, last=1, schedule=schedule, sample_weight=weights, batch_size=12, validation_data=(x, y)).history

    def mean_loss(logits, weights):
        return np.mean(weights * -log_softmax(logits)[np.arange(len(y)), y])

    assert logs["loss"][0] == pytest.approx(
        mean_loss(main, weights) + 0.25 * sum(mean_loss(b, weights) for b in branches)
    )
    hits = main.argmax(axis=1) == y
    assert logs["accuracy"][0] == pytest.approx(hits.mean())
    assert logs["weighted_accuracy"][0] == pytest.approx(np.average(hits, weights=weights))
    assert logs["top2"][0] == pytest.approx((np.argsort(main, axis=1)[:, -2:] == y[:, None]).any(axis=1).mean())
    # outside training it is the main branch's, which by now has other statistics of its batch norm
    inference = numpy(model.main(x))
    assert logs["val_loss"][0] == pytest.approx(mean_loss(inference, 1.0), abs=1e-6)
    assert logs["val_top2"][0] == pytest.approx(
        (np.argsort(inference, axis=1)[:, -2:] == y[:, None]).any(axis=1).mean()
    )

    logs = fit(model, last=1, schedule=schedule, class_weight=classes, batch_size=12).history
    per_class = np.array([classes[label] for label in y])
    assert logs["loss"][0] == pytest.approx(
        mean_loss(main, per_class) + 0.25 * sum(mean_loss(b, per_class) for b in branches), abs=1e-6
    )


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


SPECS = {
    "TET of summed logits": LossSpec(combine="logits", per_step=True, level_weight=0.2, level=0.7),
    "self-distillation": LossSpec(distillation=0.4, temperature=2.0),
    "both": LossSpec(per_step=True, distillation=0.4, temperature=2.0, detach_teacher=False),
}


def loss_by_hand(spec, main, branches, y, coefficient):
    """The equations of sbp_core.composition.compose_loss, in float64, on logits ``(batch, [time,] classes)``."""

    def supervised(logits):
        if not spec.per_step:
            return -log_softmax(logits)[np.arange(len(y)), y].mean()
        entropy = -log_softmax(logits)[np.arange(len(y)), :, y].mean()
        return (1 - spec.level_weight) * entropy + spec.level_weight * ((logits - spec.level) ** 2).mean()

    def distance(logits):
        tau = spec.temperature
        log_p, log_q = log_softmax(main / tau), log_softmax(logits / tau)
        return tau**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()

    if spec.combine == "logits":
        return supervised(main + coefficient * sum(branches))
    alpha = spec.distillation
    parts = [(1 - alpha) * supervised(b) + (alpha * distance(b) if alpha else 0.0) for b in branches]
    return supervised(main) + coefficient * sum(parts)


ENDINGS = [*((name, "Readout") for name in SPECS), ("both", "GlobalAveragePooling1D")]


@pytest.mark.matrix(*CELL, "TET, distillation")
@pytest.mark.parametrize(("name", "ending"), ENDINGS)
def test_a_loss_spec_is_what_fit_minimises(name, ending, tmp_path):
    spec = SPECS[name]
    x, y = data()
    keras.utils.set_random_seed(1)
    net = make_net(per_step=ending != "Readout")
    if ending != "Readout":
        net = keras.Model(net.input, keras.layers.GlobalAveragePooling1D()(net.output))
    model = sbp_keras.ShortcutModel(net, TAPS, CLASSES, loss_spec=spec)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])

    blocks = keras.Model(net.input, [net.get_layer(name).output for name in TAPS])(x, training=True)
    heads = [net.get_layer("head"), *model.branches]
    steps = [
        numpy(block) @ numpy(head.kernel) + numpy(head.bias)
        for head, block in zip(heads, [blocks[-1], *blocks], strict=True)
    ]
    main, *branches = steps if spec.per_step else [logits.mean(axis=1) for logits in steps]
    logs = fit(model, last=1, schedule=Constant(value=0.25), batch_size=12, validation_data=(x, y)).history
    assert logs["loss"][0] == pytest.approx(loss_by_hand(spec, main, branches, y, 0.25), abs=2e-6)
    summed = main + 0.25 * sum(branches) if spec.combine == "logits" else main
    over_time = summed.mean(axis=1) if spec.per_step else summed
    assert logs["accuracy"][0] == pytest.approx((over_time.argmax(axis=1) == y).mean())
    # inference is the main output's mean over time and the plain loss
    inference = numpy(net(x))
    assert inference.shape == (12, CLASSES)
    assert logs["val_loss"][0] == pytest.approx(-log_softmax(inference)[np.arange(12), y].mean(), abs=1e-6)

    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").loss_spec == spec


def test_accumulated_gradients_are_those_of_one_large_batch():
    ends = {}
    for size, steps in ((4, 3), (12, None)):
        optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=steps)
        model = make_model(optimizer, branch="linear")
        # batch norm would see another batch
        for layer in model.main.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        model.compile(optimizer, model.loss)
        start = [numpy(weight) for weight in model.trainable_weights]
        fit(model, last=2, batch_size=size)
        ends[size] = [numpy(weight) for weight in model.trainable_weights]
    for begin, small, large in zip(start, ends[4], ends[12], strict=True):
        np.testing.assert_allclose(small, large, rtol=0, atol=1e-5)
        assert np.abs(large - begin).max() > 1e-3


def counting_model(traces, **options):
    class Counting(keras.layers.Layer):
        def call(self, inputs):
            traces.append(1)
            return inputs

    inputs = keras.Input((TIME, 6))
    hidden = sbp_keras.LIF(name="layer1")(Counting()(inputs))
    model = sbp_keras.ShortcutModel(keras.Model(inputs, sbp_keras.Readout(CLASSES)(hidden)), ["layer1"], CLASSES)
    model.compile(
        keras.optimizers.SGD(0.0, gradient_accumulation_steps=2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options,
    )
    return model


def test_many_fits_with_one_schedule_compile_once_and_a_new_schedule_is_heeded():
    traces = []
    model = counting_model(traces)
    assert fit(model, last=2).history["coefficient"] == pytest.approx([0.5 * (1 - 4 / 6), 0.0])
    compiled = len(traces)
    fit(model, last=2)
    fit(model, 1, 2)
    if keras.backend.backend() != "torch":
        assert len(traces) == compiled
    fitted = fit(model, last=1, schedule=Cosine(initial=1.0, final=0.5, total_steps=6)).history
    assert fitted["coefficient"] == pytest.approx([0.5 + 0.25 * (1 + np.cos(np.pi * 4 / 6))])
    # None stops it
    model.schedule = None
    model.coefficient.assign(0.125)
    x, y = data()
    model.fit(x, y, batch_size=4, verbose=0)
    assert float(model.coefficient) == 0.125
    assert int(model.step) == 3


def test_data_without_a_length_goes_on_from_the_models_own_step():
    model = make_model()
    schedule = Evolutionary(initial=1.0, total_steps=8)

    def run(first, last):
        batches = (data(4) for _ in range(2))
        callback = sbp_keras.ShortcutCallback(schedule)
        return model.fit(batches, initial_epoch=first, epochs=last, verbose=0, callbacks=[callback]).history

    assert run(0, 1)["coefficient"] == [0.75]
    assert run(1, 2)["coefficient"] == [0.5]
    assert run(0, 1)["coefficient"] == [0.75]


def test_what_is_saved_for_inference_holds_nothing_of_the_shortcut(tmp_path):
    inputs = keras.Input((TIME, 6))
    hidden = keras.layers.Dense(5, activation="relu", name="hidden")(inputs)
    logits = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling1D()(hidden))
    net = keras.Model(inputs, logits)
    config = json.dumps(net.get_config())
    model = sbp_keras.ShortcutModel(net, ["hidden"], CLASSES, branch="convolutional", time_axis=None)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, last=1)
    assert json.dumps(net.get_config()) == config
    model.main.save(tmp_path / "inference.keras")
    with zipfile.ZipFile(tmp_path / "inference.keras") as archive:
        text = archive.read("config.json").decode()
    assert "sbp" not in text.lower()
    assert "shortcut" not in text.lower()


def test_half_branches_leave_the_inputs_of_a_float32_net_alone():
    x = data()[0]
    # without spikes, which would hide a rounded input
    net = around(keras.layers.Dense(5, name=TAPS[0]))
    model = shortcut([TAPS[0]], net, dtype="mixed_bfloat16")
    assert {branch.compute_dtype for branch in model.branches} == {"bfloat16"}
    np.testing.assert_array_equal(numpy(model(x)), numpy(net(x)))
    # unless told otherwise, model and branches go along with what they tap
    half = shortcut([TAPS[0]], around(sbp_keras.LIF(name=TAPS[0], dtype="mixed_float16")))
    assert half.dtype_policy.name == half.branches[0].dtype_policy.name == "mixed_float16"


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def shortcut(taps=TAPS, net=None, **options):
    return sbp_keras.ShortcutModel(net or make_net(), taps, CLASSES, **({"time_axis": 1} | options))


def around(block, **options):
    inputs = keras.Input((TIME, 6))
    return keras.Model(inputs, sbp_keras.Readout(CLASSES)(block(inputs)), **options)


def two_outputs():
    inputs = keras.Input((TIME, 6))
    return keras.Model(inputs, [sbp_keras.Readout(CLASSES)(inputs), inputs])


def twice():
    inputs = keras.Input((TIME, 6))
    block = keras.Sequential([keras.Input((TIME, 6)), keras.layers.Dense(6, name="inner")], name="block")
    return keras.Model(inputs, sbp_keras.Readout(CLASSES)(block(block(inputs))))


def inside():
    return around(keras.Sequential([keras.Input((TIME, 6)), keras.layers.Dense(6, name="inner")], name="block"))


LSTM = {"return_sequences": True, "return_state": True, "name": "lstm"}
BAD = {
    "a path that ends wrong": (lambda: shortcut(["block/iner"], inside()), ValueError, "did you mean 'block/inner'"),
    "a path into no graph": (
        lambda: shortcut(["own/inner"], around(Subclassed(name="own"))),
        ValueError,
        "'own' is not a functional model.*tap 'own' itself, or build it as keras.Model",
    ),
    "a tap in a block called twice": (
        lambda: shortcut(["block/inner"], twice()),
        ValueError,
        "'block' is called 2 times",
    ),
    "a layer of several outputs": (
        lambda: shortcut(["lstm"], around(lambda x: keras.layers.LSTM(5, **LSTM)(x)[0])),
        ValueError,
        "the layer gives 3: tap one of 'lstm:0', 'lstm:1', 'lstm:2'",
    ),
    "an output that is not there": (
        lambda: shortcut(["lstm:3"], around(lambda x: keras.layers.LSTM(5, **LSTM)(x)[0])),
        ValueError,
        "'lstm:3' must give one tensor.*'lstm:0'",
    ),
    "a net of two outputs": (lambda: shortcut(["head"], two_outputs()), ValueError, "pass keras.Model"),
    "an unknown branch": (lambda: shortcut(branch="mlp"), ValueError, "branch must be one of 'linear'"),
    "one layer for all": (lambda: shortcut(branch=keras.layers.Dense(3)), TypeError, "a mapping from each tap"),
    "a branch for other taps": (lambda: shortcut(branch={"layer1": None}), ValueError, "must have the taps"),
    "a branch that is none": (
        lambda: shortcut(branch=lambda channels, classes: 3),
        TypeError,
        "must be a keras.layers",
    ),
    "a branch of other logits": (
        lambda: shortcut(branch=lambda channels, classes: sbp_keras.Readout(classes + 1)),
        ValueError,
        r"branch of tap 'layer1' must give \(batch, 3\), logits; it gives \(None, 4\)",
    ),
    "a branch without steps": (
        lambda: shortcut(branch=lambda channels, classes: sbp_keras.Readout(classes), loss_spec=SPECS["both"]),
        ValueError,
        r"must give \(batch, time, 3\)",
    ),
    "no space to convolve": (lambda: shortcut(branch="convolutional"), ValueError, "1 to 3 axes of space, got 0"),
    "steps after their mean": (
        lambda: shortcut(
            [TAPS[0]],
            keras.Model((net := make_net()).input, keras.layers.Dense(3)(net.output)),
            loss_spec=SPECS["both"],
        ),
        ValueError,
        "net must end in the mean over time",
    ),
    "steps without time": (
        lambda: shortcut(loss_spec=SPECS["both"], time_axis=None),
        ValueError,
        "must not be per_step where time_axis is None",
    ),
    "no loss spec": (lambda: shortcut(loss_spec="TET"), TypeError, "loss_spec must be a LossSpec"),
    "two compositions": (
        lambda: shortcut(combine="logits", loss_spec=LossSpec()),
        ValueError,
        "combine must be left out",
    ),
    "a schedule without end": (lambda: shortcut(schedule=Evolutionary()), ValueError, "total_steps of"),
    "no schedule": (lambda: shortcut(schedule=0.25), TypeError, "schedule must be a Schedule"),
    "no steps in a readout": (lambda: sbp_keras.Readout(3, None, per_step=True), ValueError, "per_step must be False"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_named(bad):
    call, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        call()


def test_a_composition_without_a_loss_is_refused():
    model = shortcut(combine="losses")
    model.compile("sgd")
    output = model(data()[0], training=True)
    with pytest.raises(ValueError, match="must be given a loss, the one that main"):
        model.compute_loss(y=data()[1], y_pred=output)
