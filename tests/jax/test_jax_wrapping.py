"""Wrapping what a user has: where time is, what a net gives and takes, and what is done to it afterwards."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sbp_jax
from sbp_core import ResNetSpec

RNG = np.random.default_rng(47)
STEPS, BATCH, CLASSES = 3, 4, 5
X = jnp.asarray(RNG.normal(0.5, 1, (STEPS, BATCH, 6)), jnp.float32)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Plain(nnx.Module):
    """A block and a head, without a word of time."""

    def __init__(self, rngs=None, mean=True):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.block, self.head, self.mean = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs), mean

    def __call__(self, x):
        logits = self.head(jnp.tanh(self.block(x)))
        return logits.mean(0) if self.mean else logits


def wrap(net, sample=X, taps=("block",), **options):
    return sbp_jax.Shortcut(net, taps, CLASSES, "losses", sample=sample, **({"rngs": nnx.Rngs(1)} | options))


def read(branch, x):
    """The paper's branch of ``(..., channels)`` without space, by hand."""
    return np.asarray(x, np.float64) @ np.asarray(branch.kernel[...]) + np.asarray(branch.bias[...])


# where time is


def test_a_net_that_says_nothing_of_time_is_asked_in_words():
    with pytest.raises(
        ValueError, match=r"nothing in Plain says where time is.*time_axis=0 for \(time, batch, ..., ch"
    ) as e:
        wrap(Plain())
    for words in ("time_axis=1 for (batch, time", "None for (batch, ..., channels), no time", "'calls'", "'merged'"):
        assert words in str(e.value)


def test_neurons_of_ours_say_that_time_leads_and_a_net_may_say_it_itself():
    net = Plain()
    net.neuron = sbp_jax.LIF()
    assert wrap(net).time_axis == 0
    net.time_axis = 1
    with pytest.raises(ValueError, match="parts of Plain have time in axis 1 and 0"):
        wrap(net)
    assert wrap(net, time_axis=0).time_axis == 0
    net = Plain(mean=False)
    net.time_axis = None
    assert wrap(net, X[0]).time_axis is None


@pytest.mark.parametrize("batch", [BATCH, STEPS])  # where they are as many, no shape tells
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("time_axis", [0, 1, "merged"])
def test_each_place_of_time_gives_the_branch_by_hand(time_axis, per_step, batch):
    class Moved(Plain):
        def __call__(self, x):
            hidden = self.block({0: x, 1: x.swapaxes(0, 1), "merged": x.reshape(-1, 6)}[time_axis])
            logits = self.head(jnp.tanh(hidden))
            if per_step:
                return logits
            if time_axis == "merged":
                logits = logits.reshape(STEPS, -1, CLASSES)
            return logits.mean(1 if time_axis == 1 else 0)

    x = jnp.asarray(RNG.normal(size=(STEPS, batch, 6)), jnp.float32)
    steps = {"time_steps": STEPS} if time_axis == "merged" else {}
    model = wrap(Moved(), x, time_axis=time_axis, **steps)
    output = nnx.jit(lambda model, x: model(x))(model, x)
    each = read(model.branches[0], model.main.block(x))
    by_form = {0: each, 1: each.swapaxes(0, 1), "merged": each.reshape(-1, CLASSES)}[time_axis]
    np.testing.assert_allclose(output.branches[0], by_form if per_step else each.mean(0), **CLOSE)
    assert output.main.shape == output.branches[0].shape


def test_merged_time_needs_its_steps_and_a_number_that_fits():
    with pytest.raises(ValueError, match="time_steps must be given with time_axis='merged'"):
        wrap(Plain(), time_axis="merged")
    with pytest.raises(ValueError, match="time_steps must be left out unless time_axis is 'merged'"):
        wrap(Plain(), time_axis=0, time_steps=3)
    with pytest.raises(ValueError, match=r"tap 'block' gave shape \(12, 8\).*time_steps=5"):
        wrap(Plain(mean=False), X.reshape(-1, 6), time_axis="merged", time_steps=5)


class Cell(nnx.Module):
    """A leaky cell that is called once for each step; it gives its potential and its spikes."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(6, 8, rngs=rngs)

    def __call__(self, potential, now):
        potential = 0.5 * potential + self.linear(now)
        spikes = sbp_jax.spike(potential - 0.5, "triangle")
        return potential * (1 - spikes), {"spikes": spikes}


class Stepped(nnx.Module):
    """A loop over the steps of ``(time, batch, features)``, as most code for spiking networks is written."""

    def __init__(self, remat=False):
        rngs = nnx.Rngs(0)
        self.cell, self.head, self.remat = Cell(rngs), nnx.Linear(8, CLASSES, rngs=rngs), remat

    def spikes(self, x):
        run = nnx.remat(lambda cell, *args: cell(*args)) if self.remat else lambda cell, *args: cell(*args)
        potential = jnp.zeros((x.shape[1], 8))
        for now in x:
            potential, output = run(self.cell, potential, now)
            yield output["spikes"]

    def __call__(self, x):
        return jnp.stack([self.head(spikes) for spikes in self.spikes(x)])


@pytest.mark.parametrize("remat", [False, True])
def test_a_cell_in_a_loop_gives_a_step_in_each_call(remat):
    def spikes_of(output):
        return output[1]["spikes"]

    model = wrap(Stepped(remat), taps=("cell",), time_axis="calls", select=spikes_of)
    output = model(X)
    spikes = jnp.stack(list(model.main.spikes(X)))
    assert 0 < spikes.mean() < 1
    np.testing.assert_allclose(output.branches[0], read(model.branches[0], spikes), **CLOSE)

    def composed(model):
        return (model(X).main + 0.5 * model(X).branches[0]).sum() ** 2

    def by_hand(model):
        spikes, branch = jnp.stack(list(model.main.spikes(X))), model.branches[0]
        return (model.main.head(spikes) + 0.5 * (spikes @ branch.kernel[...] + branch.bias[...])).sum() ** 2

    found, wanted = (nnx.jit(nnx.grad(f))(model) for f in (composed, by_hand))
    for got, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, leaf, rtol=1e-4, atol=1e-4)


def test_calls_that_are_not_said_to_be_steps_are_refused():
    with pytest.raises(RuntimeError, match=r"tap 'cell' ran 3 times in one forward pass.*time_axis='calls'"):
        wrap(Stepped(), taps=("cell",), time_axis=0, select=lambda output: output[0])


def test_calls_of_a_linen_module_are_stacked_when_they_are_steps():
    calls = {"cell": {"__call__": tuple(jnp.full((2, 6), float(step)) for step in range(3))}}
    stacked = sbp_jax.branches.from_linen(calls, ("cell",), time_axis="calls")["cell"]
    assert stacked[:, 0, 0].tolist() == [0, 1, 2]


def test_pure_functions_ask_for_time_too():
    params = sbp_jax.branches.init(jax.random.key(0), {"a": 6}, CLASSES)
    square = jnp.asarray(RNG.normal(size=(4, 4, 6)))  # as many samples as steps: no shape tells
    main = jnp.zeros((4, CLASSES))
    with pytest.raises(ValueError, match=r"time_axis must be given.*time_axis=1 for \(batch, time, ..., channels\)"):
        sbp_jax.branches.apply(params, main, {"a": square}, 1.0)
    with pytest.raises(ValueError, match="time_axis must be given"):
        sbp_jax.branches.channels(lambda x: (main, {"a": x}), square)
    for time_axis in (0, 1):
        branch = params["a"]
        wanted = square.mean(time_axis) @ branch["kernel"] + branch["bias"]
        found = sbp_jax.branches.apply(params, main, {"a": square}, 1.0, time_axis=time_axis)
        np.testing.assert_allclose(found, wanted, **CLOSE)
    merged = sbp_jax.branches.apply(params, main, {"a": square.reshape(16, 6)}, 1.0, time_axis="merged", time_steps=4)
    np.testing.assert_allclose(merged, square.mean(0) @ params["a"]["kernel"] + params["a"]["bias"], **CLOSE)


# event frames of our networks


def resnet(**options):
    spec = ResNetSpec(depths=(1, 1), widths=(3, 4), in_channels=2, num_classes=CLASSES, time_steps=3)
    return sbp_jax.ResNet(spec, rngs=nnx.Rngs(0), **options)


def test_frames_that_are_batch_first_are_refused_or_said_to_be():
    net = resnet()
    frames = jnp.asarray(RNG.normal(size=(3, 2, 6, 6, 2)), jnp.float32)
    loaded = frames.swapaxes(0, 1)  # as a DataLoader collates them
    with pytest.raises(ValueError, match=r"time_steps=3 steps, got shape \(2, 3, 6, 6, 2\); pass time_axis=1 if they"):
        net(loaded)
    np.testing.assert_array_equal(net(loaded, time_axis=1), net(frames))
    as_many = jnp.asarray(RNG.normal(size=(3, 3, 6, 6, 2)), jnp.float32)
    with pytest.raises(ValueError, match="do not tell where time is; pass time_axis=0 if"):
        net(as_many)
    model = sbp_jax.Shortcut(net, ("layer1",), CLASSES, rngs=nnx.Rngs(1))
    first, second = (
        model(x, coefficient=0.5, time_axis=axis) for axis, x in ((0, as_many), (1, as_many.swapaxes(0, 1)))
    )
    np.testing.assert_array_equal(first, second)


def test_frames_of_another_length_are_taken_when_it_is_said_where_time_is():
    frames = jnp.asarray(RNG.normal(size=(5, 2, 6, 6, 2)), jnp.float32)
    net = resnet(per_step=True)
    with pytest.raises(ValueError, match="pass time_axis=0 for another number of steps"):
        net(frames)
    assert net(frames, time_axis=0).shape == (5, 2, CLASSES)
    with pytest.raises(ValueError, match="time_axis must be None for still images"):
        net(frames[0], time_axis=0)


# logits and parts of outputs


@pytest.mark.parametrize("classes", [1, 4, 6])
def test_main_logits_of_other_classes_are_refused_everywhere(classes):
    main, x = jnp.ones((BATCH, classes)), X
    params = sbp_jax.branches.init(jax.random.key(0), {"block": 6}, CLASSES)
    for function in (sbp_jax.branches.outputs, lambda *args, **options: sbp_jax.branches.apply(*args, 0.5, **options)):
        with pytest.raises(ValueError, match=rf"\(batch, {CLASSES}\), it returned \(4, {classes}\)"):
            function(params, main, {"block": x}, time_axis=0)
    net = Plain()
    net.head = nnx.Linear(8, classes, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=rf"\(batch, {CLASSES}\), it returned \(4, {classes}\)"):
        wrap(net, time_axis=0)
    # and in the call, where no sample was given
    model = sbp_jax.Shortcut(resnet(), ("layer1",), CLASSES, rngs=nnx.Rngs(1))
    model.main.head = nnx.Linear(4, classes, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="net must return logits of shape"):
        model(jnp.ones((2, 6, 6, 2)), coefficient=0.5)
    output = sbp_jax.ShortcutOutput(jnp.ones((BATCH, CLASSES)), (jnp.ones((BATCH, classes)),))
    for combine in ("logits", "losses"):
        with pytest.raises(ValueError, match="branch"):
            sbp_jax.ShortcutLoss(combine)(output, jnp.zeros(BATCH, int), 0.5)


@pytest.mark.parametrize("shape", [(CLASSES,), (2, STEPS, BATCH, CLASSES)])
def test_logits_of_another_rank_are_refused(shape):
    class Other(Plain):
        def __call__(self, x):
            return super().__call__(x).sum() * jnp.ones(shape)

    with pytest.raises(ValueError, match="net must return logits of shape"):
        wrap(Other(), time_axis=0)


class Both(NamedTuple):
    loss: Any
    logits: Any


@pytest.mark.parametrize("kind", [lambda loss, logits: (loss, logits), lambda loss, logits: {1: logits, 0: loss}, Both])
def test_the_part_of_the_output_that_is_the_logits_is_replaced_in_training(kind):
    class Whole(Plain):
        def __call__(self, x):
            return kind(x.sum(), super().__call__(x))

    with pytest.raises(TypeError, match=r"net must give an array.*say with output which part is meant"):
        wrap(Whole(), time_axis=0)
    model = sbp_jax.Shortcut(Whole(), ("block",), CLASSES, time_axis=0, sample=X, output=1, rngs=nnx.Rngs(1))
    output, bare = model(X, coefficient=0.5), model.main(X)
    assert type(output) is type(bare)
    np.testing.assert_array_equal(output[0], bare[0])
    wanted = bare[1] + 0.5 * read(model.branches[0], model.main.block(X)).mean(0)
    np.testing.assert_allclose(output[1], wanted, **CLOSE)
    model.eval()
    np.testing.assert_array_equal(model(X, coefficient=0.5)[1], bare[1])


def test_a_part_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="select=2 does not exist: tap 'cell' gave a tuple of the parts 0, 1"):
        wrap(Stepped(), taps=("cell",), time_axis="calls", select=2)
    with pytest.raises(TypeError, match="output must be an index, a key or None"):
        wrap(Plain(), time_axis=0, output=len)


def test_an_argument_may_be_given_for_each_tap():
    class Two(nnx.Module):
        time_axis = None

        def __init__(self):
            self.maps, self.head = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0)), nnx.Linear(3, CLASSES, rngs=nnx.Rngs(0))
            self.turned = nnx.Sequential(lambda x: x.transpose(0, 3, 1, 2))

        def __call__(self, x):
            return self.head(self.turned(self.maps(x)).mean((2, 3)))

    images = jnp.asarray(RNG.normal(size=(4, 7, 7, 2)), jnp.float32)
    model = wrap(Two(), images, ("maps", "turned"), branch={"maps": "convolutional"}, channels={"turned": "first"})
    assert [type(branch).__name__ for branch in model.branches] == ["ConvolutionalBranch", "LinearBranch"]
    pooled = model.main.maps(images).mean((1, 2))
    np.testing.assert_allclose(model(images).branches[1], read(model.branches[1], pooled), **CLOSE)
    with pytest.raises(ValueError, match="branch must be given for taps, 'maps', 'turned'; got 'map'"):
        wrap(Two(), images, ("maps", "turned"), branch={"map": "linear"})


# what a sample may be


class Flagged(Plain):
    """Keyword-only arguments and flags, as in most of Flax's examples."""

    time_axis = None

    def __init__(self):
        super().__init__(mean=False)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, *, train, rngs=None, scale=1.0):
        if train:  # a traced flag would fail here
            x = self.dropout(x, rngs=rngs)
        return super().__call__(x * scale)


@pytest.mark.parametrize(
    "sample",
    [
        lambda rngs: {"x": X[0], "train": True, "rngs": rngs},
        lambda rngs: ((X[0],), {"train": True, "rngs": rngs}),
        lambda rngs: ((jax.ShapeDtypeStruct((4, 6), jnp.float32),), {"train": np.bool_(False), "scale": 2.0}),
    ],
)
def test_a_sample_may_have_keywords_flags_and_random_streams(sample):
    rngs = nnx.Rngs(7)
    model = wrap(Flagged(), sample(rngs))
    assert model.branches[0].kernel.shape == (8, CLASSES)
    assert rngs.default.count[...] == 0  # finding the shapes draws nothing
    assert model(X[0], train=True, rngs=rngs).main.shape == (4, CLASSES)


# evaluation, and what is done to a network after it was wrapped


@pytest.mark.parametrize(
    "evaluate",
    [
        lambda model: nnx.view(model, deterministic=True),
        lambda model: nnx.view(model, deterministic=True, use_running_average=True),
        lambda model: nnx.view(model, graph=False, deterministic=True),
        lambda model: nnx.with_attributes(model, deterministic=True),
        lambda model: nnx.view(nnx.Sequential(model), deterministic=True).layers[0],
        lambda model: model.eval() or model,
        lambda model: model.set_attributes(deterministic=True) or model,
    ],
)
def test_every_way_of_flax_to_evaluate_takes_the_branches_off(evaluate):
    net = Plain()
    net.norm, net.neuron = nnx.BatchNorm(6, rngs=nnx.Rngs(0)), sbp_jax.LIF()
    model = evaluate(wrap(net))
    assert model.deterministic
    model.branches = None  # calling one would fail
    np.testing.assert_array_equal(model(X, coefficient=0.5), model.main(X))
    assert not nnx.view(model, deterministic=False).deterministic


def test_flax_says_what_a_view_may_set():
    assert "Shortcut:\n  deterministic: bool | None = None\n    if True, the main logits" in nnx.view_info(
        wrap(Plain(), time_axis=0)
    )


def test_an_adapter_in_the_place_of_a_tapped_module_is_tapped_with_what_it_adds():
    model = wrap(Plain(), time_axis=0)
    before = model(X).branches[0]
    model.main.block = nnx.LoRA(6, 2, 8, base_module=model.main.block, rngs=nnx.Rngs(2))
    np.testing.assert_allclose(model(X).branches[0], before, **CLOSE)  # it starts at nothing
    model.main.block.lora_b.set_value(jnp.ones((2, 8)))
    after = model(X).branches[0]
    np.testing.assert_allclose(after, read(model.branches[0], model.main.block(X)).mean(0), **CLOSE)
    assert np.abs(after - before).max() > 0.1
    gradient = nnx.grad(lambda model: model(X).branches[0].sum())(model)
    assert gradient["main"]["block"]["lora_a"][...].any()


def test_a_module_that_recomputes_the_tapped_one_is_tapped():
    class Remat(nnx.Module):
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, x):
            return nnx.remat(lambda module, x: module(x))(self.inner, x)

    model = wrap(Plain(), time_axis=0)
    before = model(X).branches[0]
    model.main.block = Remat(model.main.block)
    np.testing.assert_allclose(model(X).branches[0], before, **CLOSE)


def changed(net, how):
    inner = net.block
    if how == "gone":
        del net.block
        net.other = inner
    elif how == "a function":
        net.block = nnx.remat(inner)
    elif how == "aside":  # the network now calls the adapter, not what is at the path
        net.adapter = nnx.Sequential(inner, jnp.tanh)
        object.__setattr__(net, "__class__", Aside)
    elif how == "wider":
        net.block, net.head = nnx.Linear(6, 9, rngs=nnx.Rngs(0)), nnx.Linear(9, CLASSES, rngs=nnx.Rngs(0))


class Aside(Plain):
    def __call__(self, x):
        return self.head(self.adapter(x)).mean(0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("gone", "leads to nothing where a module was called.*wrap the network again"),
        ("a function", "leads to a function where a module was called"),
        ("aside", "did not run in this call.*wrap the network again"),
        ("wider", "must have the 8 channels that its branch was made for, got 9"),
    ],
)
def test_a_tapped_module_that_was_changed_so_that_it_cannot_be_followed_is_refused(how, message):
    model = wrap(Plain(), time_axis=0)
    changed(model.main, how)
    with pytest.raises((RuntimeError, ValueError), match=f"tap 'block' {message}"):
        model(X)


def test_a_module_under_two_names_is_one_tap_and_runs_once():
    class Shared(Plain):
        def __init__(self, twice):
            super().__init__()
            self.again, self.twice = nnx.List([self.block]), twice

        def __call__(self, x):
            first = self.again[0](x)
            return self.head(jnp.tanh(self.block(x) if self.twice else first)).mean(0)

    for name in ("block", "again.0"):
        model = wrap(Shared(twice=False), taps=(name,), time_axis=0)
        np.testing.assert_allclose(model(X).branches[0], read(model.branches[0], model.main.block(X)).mean(0), **CLOSE)
        with pytest.raises(RuntimeError, match="ran twice in one forward pass"):
            wrap(Shared(twice=True), taps=(name,), time_axis=0)
    with pytest.raises(ValueError, match="taps must be different modules"):
        wrap(Shared(twice=False), taps=("block", "again.0"), time_axis=0)


def test_a_shortcut_is_not_wrapped_again_but_its_network_may_be():
    model = wrap(Plain(), time_axis=0)
    with pytest.raises(TypeError, match=r"net must not be a Shortcut.*wrap net.main"):
        wrap(model, time_axis=0)
    second = wrap(model.main, time_axis=0, rngs=nnx.Rngs(5))
    first_alone = wrap(Plain(), time_axis=0)(X).branches[0]
    np.testing.assert_array_equal(model(X).branches[0], first_alone)  # neither sees the other
    assert np.abs(second(X).branches[0] - first_alone).max() > 0.01
