"""Shortcuts: the composition, the moving coefficient, taps, and taking them off again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sbp_jax
from sbp_core import Constant, Cosine, Evolutionary, ExponentialSchedule, LossSpec, ResNetSpec, Step
from sbp_core.reference.losses import loss_of
from sbp_core.reference.networks import initial_weights

RNG = np.random.default_rng(23)
X = jnp.asarray(RNG.normal(0.5, 1, (3, 4, 6)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 0])


class Net(nnx.Module):
    """A network of a user's own: it returns the outputs of its blocks when asked."""

    def __init__(self, rngs):
        self.block1, self.block2 = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)
        self.neuron = sbp_jax.LIF(surrogate="triangle")

    def __call__(self, x, *, taps=None):
        tapped = {"block1": self.neuron(self.block1(x))}
        tapped["block2"] = self.neuron(self.block2(tapped["block1"]))
        logits = self.head(tapped["block2"]).mean(0)
        return logits if taps is None else (logits, tapped)


def shortcut(**options):
    return sbp_jax.Shortcut(Net(nnx.Rngs(0)), ("block1", "block2"), 3, sample=X, rngs=nnx.Rngs(1), **options)


def test_a_branch_pools_over_space_before_its_linear_layer():
    spec = ResNetSpec(depths=(1, 1), widths=(3, 4), in_channels=2, time_steps=2)
    net = nnx.eval_shape(lambda: sbp_jax.ResNet(spec, rngs=nnx.Rngs(0)))
    model = sbp_jax.Shortcut(net, ("layer1",), combine="losses", rngs=nnx.Rngs(1))
    sbp_jax.import_weights(model, initial_weights(spec, 0, ("layer1",)))
    images = jnp.asarray(RNG.normal(size=(2, 5, 4, 2)), jnp.float32)
    output, (_, tapped) = nnx.jit(lambda model, x: (model(x), model.main(x, taps=("layer1",))))(model, images)
    weights = sbp_jax.export_weights(model)
    pooled = np.asarray(tapped["layer1"], np.float64).mean((2, 3))
    expected = (pooled @ weights["branches.layer1.weight"].T + weights["branches.layer1.bias"]).mean(0)
    assert pooled.any()
    np.testing.assert_allclose(output.branches[0], expected, rtol=1e-5)
    exported = initial_weights(spec, 0, ("layer1",))
    assert list(weights) == list(exported)


def test_every_branch_gets_a_gradient_even_at_coefficient_zero():
    def loss(model, coefficient):
        return optax.softmax_cross_entropy_with_integer_labels(model(X, coefficient=coefficient), LABELS).mean()

    model = shortcut()
    for coefficient, moves in ((0.0, False), (0.5, True)):
        gradients = nnx.jit(nnx.grad(loss))(model, jnp.float32(coefficient))
        for branch in gradients["branches"].values():
            assert bool(jnp.any(branch["kernel"][...] != 0)) is moves
        assert jnp.any(gradients["main"]["block1"]["kernel"][...] != 0)


def test_evaluation_gives_the_main_logits_and_runs_no_branch():
    model = shortcut()
    model.eval()
    model.branches = None  # calling one would fail
    np.testing.assert_array_equal(model(X), model.main(X))
    np.testing.assert_array_equal(model(X, coefficient=0.5), model.main(X))


def test_train_and_eval_reach_a_shortcut_inside_another_module():
    outer = nnx.Sequential(shortcut())
    outer.eval()
    np.testing.assert_array_equal(outer(X), outer.layers[0].main(X))
    outer.train()
    with pytest.raises(ValueError, match="coefficient must be given in training"):
        outer(X)


def test_the_network_is_the_same_object_and_nothing_is_left_on_it():
    net = Net(nnx.Rngs(0))
    before, names = nnx.state(net), set(vars(net))
    model = sbp_jax.Shortcut(net, ("block1",), 3, sample=X, rngs=nnx.Rngs(1))
    model(X, coefficient=1.0)
    assert model.main is net
    assert model.strip() is net
    assert set(vars(net)) == names
    jax.tree.map(np.testing.assert_array_equal, nnx.state(net), before)


def test_a_sample_sizes_the_branches_and_leaves_the_batch_statistics_alone():
    class Normed(Net):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.norm = sbp_jax.BatchNorm(6, rngs=rngs)

        def __call__(self, x, *, taps=None):
            return super().__call__(self.norm(x), taps=taps)

    net = Normed(nnx.Rngs(0))
    model = sbp_jax.Shortcut(net, ("block2", "block1"), 3, sample=X, rngs=nnx.Rngs(1))
    assert [branch.kernel.shape for branch in model.branches] == [(5, 3), (8, 3)]
    assert net.norm.mean[...].tolist() == [0] * 6


SCHEDULES = {
    "constant": Constant(value=0.5, total_steps=12),
    "evolutionary": Evolutionary(initial=0.25, total_steps=12),
    "cosine": Cosine(total_steps=12),
    "exponential": ExponentialSchedule(total_steps=12),
    "step": Step(total_steps=12, milestones=(0.25, 0.5)),
}


@pytest.mark.parametrize("per", ["iteration", "epoch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_a_traced_step_is_the_schedule_of_the_number(name, per):
    schedule = SCHEDULES[name].replace(per=per, steps_per_epoch=5)
    traced = jax.jit(schedule)
    for step in (0, 1, 3, 5, 6, 11, 12, 40):
        np.testing.assert_allclose(traced(jnp.asarray(step)), schedule(step), rtol=2e-6, atol=1e-8)
    assert traced._cache_size() == 1


@pytest.mark.parametrize("kind", [float, jnp.float32, jnp.asarray])
def test_a_moving_coefficient_moves_the_output_and_never_traces_again(kind):
    traces = []

    @nnx.jit
    def forward(model, x, coefficient):
        traces.append(coefficient)
        return model(x, coefficient=coefficient)

    model = shortcut()
    outputs = [forward(model, X, kind(coefficient)) for coefficient in (0.0, 0.25, 0.5)]
    assert len(traces) == 1
    np.testing.assert_allclose(outputs[2] - outputs[1], outputs[1] - outputs[0], rtol=1e-4, atol=1e-6)
    assert not np.allclose(outputs[0], outputs[1])


def test_the_documented_lines_run_with_a_traced_step():
    net = sbp_jax.resnet18(num_classes=10, time_steps=4, widths=(4, 4, 4, 4), rngs=nnx.Rngs(0))
    model = sbp_jax.Shortcut(net, taps=("layer1", "layer2", "layer3"), num_classes=10, rngs=nnx.Rngs(1))
    coefficient, images = Evolutionary(initial=0.25, total_steps=1000), jnp.ones((2, 32, 32, 3))
    logits = nnx.eval_shape(lambda model, step: model(images, coefficient=coefficient(step)), model, jnp.asarray(1))
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_the_loss_is_the_stated_composition(combine):
    main, first, second = jnp.asarray(RNG.normal(size=(3, 4, 3)), jnp.float32)

    def cross_entropy(logits):
        logits = np.asarray(logits, np.float64)
        exponentials = np.exp(logits)
        chosen = exponentials[np.arange(4), np.asarray(LABELS)] / exponentials.sum(1)
        return -np.log(chosen).mean()

    if combine == "logits":
        expected = cross_entropy(main + 0.3 * (first + second))
    else:
        expected = cross_entropy(main) + 0.3 * (cross_entropy(first) + cross_entropy(second))
    loss = sbp_jax.ShortcutLoss(combine)(sbp_jax.ShortcutOutput(main, (first, second)), LABELS, 0.3)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_losses_default_to_the_branches_kept_apart():
    output = shortcut(combine="losses")(X)
    assert isinstance(output, sbp_jax.ShortcutOutput)
    assert sbp_jax.ShortcutLoss()(output, LABELS, jnp.float32(0.5)) > sbp_jax.ShortcutLoss()(output, LABELS, 0.0)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (jnp.ones(4), TypeError, r"labels of shape \(4,\) must be integer classes"),
        (jnp.ones(3, int), ValueError, r"labels must have shape \(4,\), got \(3,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        sbp_jax.ShortcutLoss()(sbp_jax.ShortcutOutput(jnp.ones((4, 3)), ()), labels, 1.0)
    with pytest.raises(TypeError, match="output must be a ShortcutOutput"):
        sbp_jax.ShortcutLoss()(jnp.ones((4, 3)), labels, 1.0)


class Untapped(nnx.Module):
    time_axis = 0

    def __call__(self, x):
        return x.mean(0)


class Deaf(nnx.Module):
    time_axis = 0

    def __call__(self, x, taps=None):
        return x.mean(0)


class Still(nnx.Module):
    """It says where time is in what it taps, and is wrong."""

    time_axis = 0

    def __call__(self, x, taps=None):
        return x.mean(0), {"block1": x.mean(0)}


@pytest.mark.parametrize(
    ("net", "options", "error", "message"),
    [
        (Untapped(), {"sample": X}, TypeError, r"takes no 'taps'; a network to be tapped takes taps=None"),
        (Deaf(), {"sample": X}, TypeError, r"net returned .* for taps=\('block1',\): a network to be tapped"),
        (Net(nnx.Rngs(0)), {}, ValueError, "sample must be given"),
        (
            Net(nnx.Rngs(0)),
            {"sample": X, "taps": ("blok1",)},
            ValueError,
            "did you mean .*The network has: block1, block2",
        ),
        (Net(nnx.Rngs(0)), {"sample": X, "taps": ()}, ValueError, "at least one block"),
        (Net(nnx.Rngs(0)), {"sample": X, "taps": "block1"}, TypeError, "sequence of names"),
        (Net(nnx.Rngs(0)), {"sample": X, "combine": "sum"}, ValueError, "combine must be one of"),
        (Net(nnx.Rngs(0)), {"sample": X, "num_classes": 0}, ValueError, "num_classes"),
        (lambda x: x, {"sample": X}, TypeError, "net must be an nnx.Module"),
    ],
)
def test_a_network_or_a_tap_that_does_not_fit_is_refused(net, options, error, message):
    options = {"taps": ("block1",), "num_classes": 3} | options
    with pytest.raises(error, match=message):
        sbp_jax.Shortcut(net, rngs=nnx.Rngs(1), **options)


def test_a_tapped_output_without_time_is_refused():
    with pytest.raises(
        ValueError, match=r"gave shape \(4, 6\), which is no \(time, batch, ..., channels\) .*pass time_axis=None for"
    ):
        sbp_jax.Shortcut(Still(), ("block1",), 6, sample=X, rngs=nnx.Rngs(1))
    model = sbp_jax.Shortcut(Still(), ("block1",), 6, sample=X, time_axis=None, rngs=nnx.Rngs(1))
    assert model(X, coefficient=0.5).shape == (4, 6)


@pytest.mark.parametrize(
    ("coefficient", "error", "message"),
    [
        (None, ValueError, "coefficient must be given in training"),
        (float("nan"), ValueError, "coefficient must be finite"),
        (jnp.ones(2), ValueError, r"coefficient must be a scalar, got shape \(2,\)"),
    ],
)
def test_a_coefficient_that_does_not_fit_is_refused(coefficient, error, message):
    with pytest.raises(error, match=message):
        shortcut()(X, coefficient=coefficient)


def test_logits_of_each_step_have_branches_of_each_step_whose_mean_is_what_a_network_of_means_gives():
    spec = ResNetSpec(depths=(1, 1), widths=(4, 6), time_steps=3, num_classes=5)
    images = jnp.asarray(np.random.default_rng(6).normal(size=(2, 8, 8, 3)), jnp.float32)
    results = []
    for per_step in (False, True):
        net = sbp_jax.ResNet(spec, per_step=per_step, rngs=nnx.Rngs(0))
        model = sbp_jax.Shortcut(net, ("layer1", "stem"), 5, combine="losses", rngs=nnx.Rngs(1))
        results.append(nnx.jit(lambda model, images: model(images))(model, images))
    mean, steps = results
    assert steps.main.shape == (3, 2, 5)
    for averaged, each in zip((mean.main, *mean.branches), (steps.main, *steps.branches), strict=True):
        np.testing.assert_allclose(each.mean(0), averaged, rtol=1e-6, atol=1e-6)
    assert not np.allclose(steps.branches[0][0], steps.branches[0][1])

    # every step is held to the labels (TET), as the reference has it
    labels, tet = np.array([1, 4]), LossSpec(per_step=True, level_weight=0.25)
    found = sbp_jax.ShortcutLoss(tet)(steps, jnp.asarray(labels), 0.5)
    main, branches = np.asarray(steps.main, np.float64), [np.asarray(branch, np.float64) for branch in steps.branches]
    assert float(found) == pytest.approx(loss_of(tet, main, branches, labels, 0.5)[0], rel=1e-6)


def test_branches_as_pure_functions_give_each_step_where_the_main_logits_do():
    random = np.random.default_rng(7)
    hidden, main = jnp.asarray(random.normal(size=(3, 2, 4))), jnp.asarray(random.normal(size=(3, 2, 5)))
    params = sbp_jax.branches.init(jax.random.key(0), {"hidden": 4}, 5)
    summed = sbp_jax.branches.apply(params, main, {"hidden": hidden}, 0.5, time_axis=0)
    expected = main + 0.5 * (hidden @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    np.testing.assert_allclose(summed, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="steps of the main logits, 2; it has 3"):
        sbp_jax.branches.apply(params, main[:2], {"hidden": hidden}, 0.5, time_axis=0)
