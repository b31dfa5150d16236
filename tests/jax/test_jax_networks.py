"""The ResNet against one in plain NumPy, float64, weight for weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sbp_jax
from sbp_core import LIFSpec, ResNetSpec
from sbp_core.reference.networks import initial_weights

SPEC = ResNetSpec(depths=(1, 2), widths=(4, 6), num_classes=5, in_channels=2, time_steps=3)
RNG = np.random.default_rng(22)
IMAGES = RNG.normal(size=(2, 5, 4, 2))
FRAMES = RNG.normal(size=(3, 2, 5, 4, 2))


class PlainNet:
    """The network of a spec's docstring, in loops; ``moments`` keeps what each batch norm saw."""

    def __init__(self, weights, training):
        self.weights = weights
        self.training = training
        self.moments = {}

    def conv(self, name, x, stride=1):
        kernel = self.weights[f"{name}.weight"]
        size = kernel.shape[2]
        space = [(0, 0)] * (x.ndim - 3) + [(size // 2, size // 2)] * 2 + [(0, 0)]
        padded = np.pad(x, space)
        height, width = ((n - 1) // stride + 1 for n in x.shape[-3:-1])
        out = np.zeros((*x.shape[:-3], height, width, kernel.shape[0]))
        for row in range(height):
            for column in range(width):
                window = padded[..., row * stride : row * stride + size, column * stride : column * stride + size, :]
                out[..., row, column, :] = np.einsum("...hwi,oihw->...o", window, kernel)
        return out

    def norm(self, name, x):
        axes = tuple(range(x.ndim - 1))
        mean, variance = self.weights[f"{name}.running_mean"], self.weights[f"{name}.running_var"]
        if self.training:
            self.moments[name] = x.mean(axes), x.var(axes, ddof=1)
            mean, variance = x.mean(axes), x.var(axes)
        scaled = (x - mean) / np.sqrt(variance + 1e-5)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def neuron(self, x):
        spikes, u = np.zeros_like(x), np.zeros(x.shape[1:])
        for t in range(len(x)):
            u = 0.5 * u + x[t]
            spikes[t] = u > 1
            u = u * (1 - spikes[t])
        return spikes

    def block(self, name, x, stride):
        identity = x
        if f"{name}.downsample.conv.weight" in self.weights:
            identity = self.norm(f"{name}.downsample.bn", self.conv(f"{name}.downsample.conv", x, stride))
        x = self.neuron(self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride)))
        return self.neuron(self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", x)) + identity)

    def __call__(self, images):
        x = self.norm("stem.bn", self.conv("stem.conv", images))
        x = self.neuron(np.stack([x] * 3) if images.ndim == 4 else x)
        tapped = {"layer1": self.block("layer1.0", x, 1)}
        x = self.block("layer2.0", tapped["layer1"], 2)
        tapped["layer2"] = self.block("layer2.1", x, 1)
        pooled = tapped["layer2"].mean((2, 3))
        return (pooled @ self.weights["head.weight"].T + self.weights["head.bias"]).mean(0), tapped


def shaped(spec=SPEC, **options):
    return nnx.eval_shape(lambda: sbp_jax.ResNet(spec, rngs=nnx.Rngs(0), **options))


def loaded(spec=SPEC):
    net = shaped(spec)
    sbp_jax.import_weights(net, initial_weights(spec, seed=1))
    return net


def run(net, images):
    return net(images, taps=("layer1", "layer2"))


def some_weights():
    """Weights that a mix-up of any two parts would betray, and that make every layer spike."""
    weights = {name: np.float64(array) for name, array in initial_weights(SPEC, seed=3).items()}
    for name, array in weights.items():
        if array.ndim == 1 and not name.startswith("head"):
            level = {"weight": 2.0, "bias": 0.3, "running_mean": 0.1, "running_var": 1.0}[name.rpartition(".")[2]]
            array += level - array + RNG.uniform(-0.1, 0.1, array.shape)
    return weights


@pytest.mark.parametrize("images", [IMAGES, FRAMES], ids=["still", "frames"])
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_a_plain_network_computes(images, training):
    weights = some_weights()
    plain = PlainNet(weights, training)
    expected, expected_taps = plain(images)
    with jax.enable_x64(True):
        net = shaped(param_dtype=jnp.float64)
        sbp_jax.import_weights(net, weights)
        (net.train if training else net.eval)()
        logits, tapped = nnx.jit(run)(net, jnp.asarray(images))
        after = sbp_jax.export_weights(net)
    for name, spikes in expected_taps.items():
        assert 0.05 < spikes.mean() < 0.95
        np.testing.assert_array_equal(tapped[name], spikes)
    np.testing.assert_allclose(logits, expected, rtol=1e-12)
    for name, array in weights.items():
        layer, _, part = name.rpartition(".")
        moved = part in ("running_mean", "running_var") and training
        wanted = 0.9 * array + 0.1 * plain.moments[layer][part == "running_var"] if moved else array
        np.testing.assert_allclose(after[name], wanted, rtol=1e-12, err_msg=name)


def test_batch_norm_needs_more_than_one_value_per_channel_in_training():
    norm = sbp_jax.BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="more than one value per channel"):
        norm(jnp.ones((1, 3)))
    norm.eval()
    assert norm(jnp.ones((1, 3))).shape == (1, 3)


def test_stages_have_the_names_and_sizes_of_the_spec_and_can_be_tapped():
    net = shaped(SPEC.replace(stem="imagenet"))
    logits, tapped = nnx.eval_shape(lambda net, x: net(x, taps=("layer2", "stem")), net, jnp.ones((2, 16, 16, 2)))
    assert {name: output.shape for name, output in tapped.items()} == {
        "stem": (3, 2, 4, 4, 4),
        "layer2": (3, 2, 2, 2, 6),
    }
    assert logits.shape == (2, 5)
    assert {"stem", "layer1", "layer2", "head"} <= set(vars(net))


def test_the_large_stem_pools_the_spikes_of_each_step():
    net = loaded(SPEC.replace(stem="imagenet"))
    spikes = []
    neuron = net.stem.neuron
    net.stem.neuron = lambda x: spikes.append(neuron(x)) or spikes[0]
    pooled = net.stem(jnp.asarray(RNG.normal(size=(2, 12, 12, 2)), jnp.float32))
    padded = np.pad(spikes[0], [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    for row, column in np.ndindex(3, 3):
        window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        np.testing.assert_array_equal(pooled[:, :, row, column], window.max((2, 3)))
    assert 0 < pooled.mean() < 1


def test_weights_make_the_round_trip_and_have_the_canonical_names():
    spec = SPEC.replace(neuron=LIFSpec(learn_decay=True))
    net = shaped(spec)
    weights = initial_weights(spec, seed=5)
    sbp_jax.import_weights(net, weights)
    exported = sbp_jax.export_weights(net)
    assert {name: array.shape for name, array in exported.items()} == spec.parameter_shapes()
    assert list(exported) == list(spec.parameter_shapes())
    for name, array in weights.items():
        np.testing.assert_array_equal(exported[name], array, err_msg=name)
    assert len(jax.tree.leaves(nnx.state(net, nnx.Param, nnx.BatchStat))) == len(exported)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w.pop("head.bias"), ValueError, "missing: 'head.bias'"),
        (lambda w: w.update(extra=np.ones(1)), ValueError, "unknown: 'extra'"),
        (lambda w: w.update({"head.weight": np.ones((4, 5))}), ValueError, r"must have shape \(5, 6\), got \(4, 5\)"),
        (lambda w: w.update({"head.bias": np.ones(5, int)}), TypeError, "floating-point"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(change, error, message):
    net = loaded()
    before = sbp_jax.export_weights(net)
    weights = initial_weights(SPEC, seed=5)
    change(weights)
    with pytest.raises(error, match=message):
        sbp_jax.import_weights(net, weights)
    for name, array in sbp_jax.export_weights(net).items():
        np.testing.assert_array_equal(array, before[name])


def test_weights_of_another_module_have_no_names():
    with pytest.raises(TypeError, match="net_or_model must be a Network"):
        sbp_jax.export_weights(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


def test_initial_weights_have_the_stated_spread():
    net = sbp_jax.ResNet(ResNetSpec(depths=(1,), widths=(64,)), rngs=nnx.Rngs(6))
    weights = sbp_jax.export_weights(net)
    kernel = weights["layer1.0.conv1.weight"]  # 36,864 numbers: the standard error of the spread is 0.4 %
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()  # a normal one, not truncated at two deviations
    for part in (weights["head.weight"], weights["head.bias"]):
        assert np.abs(part).max() <= 1 / 8
    np.testing.assert_allclose(weights["head.weight"].std(), 1 / 8 / np.sqrt(3), rtol=0.1)
    assert np.ptp(weights["head.bias"]) > 0.05


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_it_computes_in_the_asked_dtype_with_float32_statistics(dtype):
    net = shaped(dtype=jnp.dtype(dtype))
    logits, tapped = nnx.eval_shape(lambda net, x: net(x, taps=("layer1",)), net, jnp.ones((2, 5, 4, 2)))
    assert logits.dtype == tapped["layer1"].dtype == dtype
    assert net.stem.bn.var.dtype == net.stem.conv.kernel.dtype == jnp.float32


def test_the_names_build_the_specs_they_stand_for():
    net = nnx.eval_shape(lambda: sbp_jax.resnet18(rngs=nnx.Rngs(0)))
    assert (net.spec.depths, net.spec.num_classes, net.spec.time_steps) == ((2, 2, 2, 2), 10, 4)
    net = nnx.eval_shape(lambda: sbp_jax.resnet34(7, 2, widths=(2,) * 4, rngs=nnx.Rngs(0)))
    assert (net.spec.depths, net.spec.num_classes, net.spec.time_steps) == ((3, 4, 6, 3), 7, 2)
    assert [len(getattr(net, name).layers) for name in net.spec.stage_names] == [3, 4, 6, 3]


@pytest.mark.parametrize(
    ("images", "keywords", "error", "message"),
    [
        (jnp.ones((5, 4, 2)), {}, ValueError, "images must have 4 axes, a batch of still ones, or 5, event frames"),
        (jnp.ones((2, 5, 4, 3)), {}, ValueError, "2 channels in their last axis"),
        (jnp.ones((0, 2, 5, 4, 2)), {"time_axis": 0}, ValueError, "at least one time step"),
        (jnp.ones((2, 5, 4, 2), jnp.uint8), {}, TypeError, "images must hold floating-point numbers"),
        (jnp.ones((2, 5, 4, 2)), {"taps": ("layer3",)}, ValueError, "The network has: stem, layer1, layer2"),
    ],
)
def test_bad_images_and_taps_are_refused(images, keywords, error, message):
    net = loaded()
    with pytest.raises(error, match=message):
        net(images, **keywords)


def test_a_network_needs_a_spec():
    with pytest.raises(TypeError, match="spec must be a NetworkSpec"):
        sbp_jax.ResNet("resnet18", rngs=nnx.Rngs(0))
