"""Where time and channels are: stated by the neurons or said, never guessed; on whichever backend Keras is set to."""

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import LossSpec, ResNetSpec
from sbp_keras import private

RANDOM = np.random.default_rng(20261125)


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def image_net(shape=(8, 8, 3)):
    inputs = keras.Input(shape)
    maps = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(maps)), name="images")


@pytest.mark.parametrize("branch", ["linear", "convolutional"])
def test_a_net_that_says_nothing_is_asked_about(branch):
    with pytest.raises(ValueError, match="time_axis must be given: nothing in net 'images' says") as raised:
        sbp_keras.ShortcutModel(image_net(), ["conv"], 3, branch=branch)
    for words in ("time_axis=1 for (batch, time, ..., channels)", "time_axis=None for (batch, ..., channels), no time"):
        assert words in str(raised.value)
    assert "time_axis='merged'" in str(raised.value)
    model = sbp_keras.ShortcutModel(image_net(), ["conv"], 3, branch=branch, time_axis=None)
    assert model.time_axis is None
    if branch == "convolutional":
        assert isinstance(model.branches[0].convolution, keras.layers.Conv2D)
    with pytest.raises(ValueError, match="time_axis must be 1, None or 'merged'; got 0"):
        sbp_keras.ShortcutModel(image_net(), ["conv"], 3, time_axis=0)


def test_neurons_say_where_time_is_and_a_tap_before_them_is_not_taken_for_time():
    spec = ResNetSpec(depths=(1, 1), widths=(4, 6), num_classes=3, in_channels=2, time_steps=3)
    for size in (8, 3):  # as high as there are steps, too
        net = sbp_keras.resnet(spec, (size, size, 2))
        assert sbp_keras.ShortcutModel(net, ["stem", "layer1"], 3).time_axis == 1
        with pytest.raises(ValueError, match=r"tap 'stem_conv', of shape .* comes before the image is repeated"):
            sbp_keras.ShortcutModel(net, ["stem_conv"], 3)
        model = sbp_keras.ShortcutModel(net, ["stem_conv"], 3, time_axis=None, branch="convolutional")
        assert isinstance(model.branches[0].convolution, keras.layers.Conv2D)
    inputs = keras.Input((8, 8, 2))
    conv = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    steps = keras.layers.Reshape((3, 12 * 4))(conv)
    net = keras.Model(inputs, sbp_keras.Readout(3)(sbp_keras.LIF()(steps)))
    with pytest.raises(ValueError, match=r"tap 'conv', of shape .* has not their 3 steps there"):
        sbp_keras.ShortcutModel(net, ["conv"], 3)
    # neurons inside a layer of the user's own say so too

    class Block(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.fire = sbp_keras.LIF()

        def call(self, inputs):
            return self.fire(inputs)

    inputs = keras.Input((3, 6))
    net = keras.Model(inputs, sbp_keras.Readout(3)(Block(name="block")(inputs)))
    assert sbp_keras.ShortcutModel(net, ["block"], 3).time_axis == 1


def merged_net():
    """Time is merged into the batch for the convolution, time outermost, and split again after it."""
    inputs = keras.Input((4, 6, 5, 2))
    first = ops.reshape(ops.transpose(inputs, (1, 0, 2, 3, 4)), (-1, 6, 5, 2))
    maps = keras.layers.Conv2D(3, 3, padding="same", name="conv")(first)
    again = ops.transpose(ops.reshape(maps, (4, -1, 6, 5, 3)), (1, 0, 2, 3, 4))
    return keras.Model(inputs, sbp_keras.Readout(3, name="head")(again))


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("branch", ["linear", "convolutional"])
def test_time_merged_into_the_batch_is_the_same_as_apart(branch, per_step, tmp_path):
    x = RANDOM.normal(size=(2, 4, 6, 5, 2)).astype("float32")
    net = merged_net()
    options = {"branch": branch, "loss_spec": LossSpec(per_step=per_step), "coefficient": 0.5}
    merged = sbp_keras.ShortcutModel(net, ["conv"], 3, time_axis="merged", time_steps=4, **options)
    output = merged(x, training=True)
    maps = keras.Model(net.input, net.get_layer("conv").output)(x)
    apart = numpy(maps).reshape(4, 2, 6, 5, 3).swapaxes(0, 1).astype("float32")
    layer = type(merged.branches[0])(3, per_step=per_step)
    layer(apart)
    for one, other in zip(layer.trainable_weights, merged.branches[0].trainable_weights, strict=True):
        one.assign(other)
    expected = numpy(layer(apart, training=True) if branch == "convolutional" else layer(apart))
    assert output.branches[0].shape == ((2, 4, 3) if per_step else (2, 3)) == output.main.shape
    np.testing.assert_allclose(numpy(output.branches[0]), expected, rtol=0, atol=1e-5)
    merged.save(tmp_path / "merged.keras")
    loaded = keras.models.load_model(tmp_path / "merged.keras")
    assert (loaded.time_axis, loaded.time_steps) == ("merged", 4)
    np.testing.assert_array_equal(numpy(loaded(x, training=True).main), numpy(output.main))


def test_merged_time_needs_its_steps_and_nothing_else_does():
    with pytest.raises(ValueError, match="time_steps must be given with time_axis='merged'"):
        sbp_keras.ShortcutModel(merged_net(), ["conv"], 3, time_axis="merged")
    with pytest.raises(ValueError, match="time_steps must be left out unless time_axis is 'merged'"):
        sbp_keras.ShortcutModel(image_net(), ["conv"], 3, time_axis=None, time_steps=4)
    with pytest.raises(ValueError, match="channels must be"):
        sbp_keras.ShortcutModel(image_net(), ["conv"], 3, time_axis=None, channels="middle")
    inputs = keras.Input((4,))
    net = keras.Model(inputs, keras.layers.Dense(3, name="last")(inputs))
    with pytest.raises(ValueError, match=r"tap 'last' gave shape .* pass time_axis=None"):
        sbp_keras.ShortcutModel(net, ["last"], 3, time_axis=1)


@pytest.mark.parametrize(
    ("channels", "order"), [("first", (0, 1, 4, 2, 3)), (2, (0, 1, 4, 2, 3)), (-2, (0, 1, 2, 4, 3))]
)
def test_channels_may_be_anywhere(channels, order):
    inputs = keras.Input((2, 5, 6, 3))
    turned = keras.layers.Permute(order[1:], name="turned")(inputs)
    net = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(turned)))
    x = RANDOM.normal(size=(4, 2, 5, 6, 3)).astype("float32")
    for given in (channels, {"turned": channels}):
        model = sbp_keras.ShortcutModel(net, ["turned"], 3, "losses", time_axis=1, channels=given)
        branch = model.branches[0]
        expected = x.astype("float64").mean(axis=(1, 2, 3)) @ numpy(branch.kernel) + numpy(branch.bias)
        np.testing.assert_allclose(numpy(model(x, training=True).branches[0]), expected, rtol=0, atol=1e-5)


def test_a_file_of_an_earlier_version_loads(tmp_path):
    net = sbp_keras.resnet(ResNetSpec(depths=(1,), widths=(4,), num_classes=3, in_channels=2, time_steps=3), (6, 6, 2))
    model = sbp_keras.ShortcutModel(net, ["stem"], 3, branch="convolutional", coefficient=0.125)
    path, older = tmp_path / "new.keras", tmp_path / "old.keras"
    model.save(path)

    def as_it_was(value):
        if isinstance(value, list):
            return [as_it_was(item) for item in value]
        if not isinstance(value, dict):
            return value
        names = {"channels": "channel_axis"}
        changed = {names.get(name, name): as_it_was(item) for name, item in value.items() if name != "time_steps"}
        if "channel_axis" in changed:
            changed["channel_axis"] = -1
        modules = {"sbp_keras.readout": "sbp_keras.steps"}
        return changed | ({"module": modules.get(value["module"], value["module"])} if "module" in value else {})

    with zipfile.ZipFile(path) as new, zipfile.ZipFile(older, "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"] = as_it_was(config["config"])
                config["config"]["net"]["config"]["spec"]["time_steps"] = 3
                content = json.dumps(config).encode()
                assert b"channel_axis" in content
                assert b"sbp_keras.readout" not in content
            old.writestr(name, content)
    x = RANDOM.normal(size=(2, 6, 6, 2)).astype("float32")
    loaded = keras.models.load_model(older)
    np.testing.assert_array_equal(numpy(loaded(x, training=True)), numpy(model(x, training=True)))
    assert (loaded.time_axis, loaded.channels) == (1, -1)


def test_the_private_names_of_keras_are_there():
    for owner, names in private.NAMES.items():
        found = keras
        for part in owner.split(".")[1:]:
            found = getattr(found, part)
        if owner == "keras.KerasTensor":
            found = keras.Input((3,))
        if owner.endswith(("Layer", "Model")):
            found = image_net()
        for name in names:
            assert hasattr(found, name), f"{owner}.{name}"
