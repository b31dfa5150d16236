"""What can be tapped, how it is read, what the branches may be, and what each mistake is told."""

import collections
import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import sbp_torch
from sbp_core import Constant, ResNetSpec, ShortcutOutput
from sbp_torch.branches import ConvolutionalBranch, LinearBranch

SEED = 20261124
SPEC = ResNetSpec(depths=(1, 1), widths=(3, 4), in_channels=2, num_classes=5, time_steps=2)
IMAGES = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(SEED))
LABELS = torch.tensor([0, 4, 2])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(SEED)
    torch.compiler.reset()


def hooks(net):
    return sum(len(module._forward_hooks) for module in net.modules())


class Scale(nn.Module):
    """Gives the input times a parameter, in the form that ``wrap`` puts it in."""

    def __init__(self, wrap=lambda x: x):
        super().__init__()
        self.weight, self.wrap = nn.Parameter(torch.tensor(2.0)), wrap

    def forward(self, x):
        return self.wrap(self.weight * x)


class Chain(nn.Module):
    """Calls its block once, or at each step of the leading axis, and gives the mean over all but batch and classes."""

    time_axis = 0

    def __init__(self, block, unwrap=lambda x: x, loop=False, wrap=lambda x: x, per_step=False):
        super().__init__()
        self.block, self.unwrap, self.loop, self.wrap, self.per_step = block, unwrap, loop, wrap, per_step
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        y = torch.stack([self.unwrap(self.block(step)) for step in x]) if self.loop else self.unwrap(self.block(x))
        logits = self.head(y.flatten(3).mean(3) if y.ndim > 3 else y)
        return self.wrap(logits if self.per_step else logits.mean(0))


X = torch.rand(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(SEED))  # time, batch, channels, space


def linear(model, features):
    branch = model.branches["block"]
    return features @ branch.weight.T + branch.bias


def test_a_module_called_at_each_step_is_read_over_all_its_calls():
    model = sbp_torch.Shortcut(Chain(Scale(), loop=True), ["block"], 5, time_axis="calls")
    expected = model.main(X) + linear_of_lazy(model, (2 * X).mean((0, 3, 4)))
    torch.testing.assert_close(model(X), expected)
    whole = sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, time_axis=0)
    whole.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(X), whole(X))


def linear_of_lazy(model, features):
    model(X)  # now the branch has its size
    return linear(model, features)


def test_calls_of_different_shapes_are_refused():
    class Ragged(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = Scale(), nn.Linear(4, 5)

        def forward(self, x):
            self.block(x[:, :2])
            return self.head(self.block(x))

    with pytest.raises(ValueError, match=r"same shape in every call, it gave \(3, 2\) and \(3, 4\)"):
        sbp_torch.Shortcut(Ragged(), ["block"], 5, time_axis="calls")(torch.rand(3, 4))


@pytest.mark.parametrize(
    ("wrap", "unwrap", "select"),
    [
        (lambda x: (x, None), lambda y: y[0], 0),
        (lambda x: {"state": None, "spikes": x}, lambda y: y["spikes"], "spikes"),
        (lambda x: (None, [x]), lambda y: y[1][0], lambda y: y[1][0]),
    ],
    ids=["index", "key", "function"],
)
def test_a_part_of_a_tapped_output_can_be_selected(wrap, unwrap, select):
    plain = sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, sample=X)
    model = sbp_torch.Shortcut(Chain(Scale(wrap), unwrap), ["block"], 5, sample=X, select={"block": select})
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(X), plain(X))


@pytest.mark.parametrize("combine", ["logits", "losses"])
@pytest.mark.parametrize(
    ("wrap", "output", "kind"),
    [
        (lambda x: ("state", x), 1, tuple),
        (lambda x: ["state", x], -1, list),
        (lambda x: {"state": "state", "logits": x}, "logits", dict),
        (lambda x: Named("state", x), 1, None),
    ],
    ids=["tuple", "list", "dict", "namedtuple"],
)
def test_the_logits_may_be_a_part_of_the_output_and_the_rest_is_kept(combine, wrap, output, kind):
    plain = sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, combine, sample=X)
    model = sbp_torch.Shortcut(Chain(Scale(), wrap=wrap), ["block"], 5, combine, sample=X, output=output)
    model.load_state_dict(plain.state_dict())
    result, expected = model(X), plain(X)
    assert type(result) is (kind or Named)
    assert result["state" if kind is dict else 0] == "state"
    found = result[output]
    if combine == "losses":
        assert isinstance(found, ShortcutOutput)
        found, expected = found.branches[0], expected.branches[0]
    assert torch.equal(found, expected)
    assert torch.equal(model.eval()(X)[output], plain.eval()(X))


Named = collections.namedtuple("Named", ["state", "logits"])


@pytest.mark.parametrize(("make", "output"), [(lambda x: {"logits": x}, "logits"), (lambda x: [x], 0)])
def test_what_the_network_keeps_of_its_own_output_is_not_changed(make, output):
    kept = []

    def wrap(logits):
        kept.append(make(logits))
        return kept[-1]

    model = sbp_torch.Shortcut(Chain(Scale(), wrap=wrap), ["block"], 5, output=output)
    result = model(X)
    assert result is not kept[-1]
    assert torch.equal(kept[-1][output], model.main(X)[output])
    assert not torch.equal(kept[-1][output], result[output])


@pytest.mark.parametrize(("time_axis", "loop"), [(0, False), ("calls", True)])
def test_logits_of_each_step_get_the_branches_of_each_step(time_axis, loop):
    model = sbp_torch.Shortcut(Chain(Scale(), loop=loop, per_step=True), ["block"], 5, time_axis=time_axis, sample=X)
    logits = model(X)
    assert logits.shape == (2, 3, 5)
    torch.testing.assert_close(logits, model.main(X) + linear(model, (2 * X).mean((3, 4))))


def test_the_resnet_gives_logits_of_each_step_and_so_does_its_shortcut():
    torch.manual_seed(SEED)
    steps = sbp_torch.ResNet(SPEC, per_step=True)
    mean = sbp_torch.ResNet(SPEC)
    mean.load_state_dict(steps.state_dict())
    assert steps(IMAGES).shape == (2, 3, 5)
    torch.testing.assert_close(steps(IMAGES).mean(0), mean(IMAGES))
    model, other = (sbp_torch.Shortcut(net, ["stem", "layer1"], 5) for net in (steps, mean))
    other.load_state_dict(model.state_dict())
    assert (model(IMAGES)[0] - model(IMAGES)[1]).abs().max() > 1e-3
    torch.testing.assert_close(model(IMAGES).mean(0), other(IMAGES))
    with pytest.raises(TypeError, match="per_step must be True or False, got 1"):
        sbp_torch.resnet18(per_step=1)


def test_steps_that_differ_from_those_of_the_logits_are_refused():
    net = Chain(Scale(), unwrap=lambda y: torch.cat((y, y)), per_step=True)
    with pytest.raises(ValueError, match="must have the steps of the main logits, 4; it has 2"):
        sbp_torch.Shortcut(net, ["block"], 5)(X)


@pytest.mark.parametrize(
    ("time_axis", "shape", "features"),
    [
        (None, (3, 7, 4), lambda x: x.mean(1)),
        (None, (3, 5, 7, 4), lambda x: x.mean((1, 2))),
        (0, (2, 3, 7, 4), lambda x: x.mean((0, 2))),
        (1, (3, 2, 7, 4), lambda x: x.mean((1, 2))),
    ],
)
def test_channels_may_come_last_as_in_tokens(time_axis, shape, features):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = Scale(), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(features(self.block(x)))

    x = torch.rand(shape)
    model = sbp_torch.Shortcut(Tokens(), ["block"], 5, time_axis=time_axis, channels="last", sample=x)
    torch.testing.assert_close(model(x) - model.main(x), linear(model, features(2 * x)))


@pytest.mark.parametrize("owner", ["net", "spec"])
def test_the_time_axis_is_taken_from_what_the_network_states(owner):
    net = nn.Sequential(Scale())
    if owner == "net":
        net.time_axis = "calls"
    else:
        net.spec = type("Spec", (), {"time_axis": "calls", "tap_channels": {"0": 4}})()
    assert sbp_torch.Shortcut(net, ["0"], 5).time_axis == "calls"
    assert sbp_torch.Shortcut(net, ["0"], 5, time_axis=0).time_axis == 0
    net.time_axis = 3
    with pytest.raises(ValueError, match="time_axis of Sequential must be 0, 1, None, 'calls' or 'merged'; got 3"):
        sbp_torch.Shortcut(net, ["0"], 5)


def test_where_nothing_says_where_time_is_it_is_asked_for_and_our_neurons_say_it():
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    with pytest.raises(ValueError, match=r"time_axis must be given: nothing in Sequential says.*time_axis=None for"):
        sbp_torch.Shortcut(plain, ["0"], 5, sample=torch.rand(3, 4))
    assert hooks(plain) == 0
    spiking = nn.Sequential(nn.Linear(4, 5), sbp_torch.LIF())
    assert sbp_torch.Shortcut(spiking, ["0"], 5).time_axis == 0
    model = sbp_torch.Shortcut(plain, ["0"], 5, time_axis=None, sample=torch.rand(4, 4))  # as many samples as channels
    assert model.branches["0"].in_features == 5
    assert model(torch.rand(4, 4)).shape == (4, 5)


def test_a_convolutional_branch_is_a_convolution_norm_relu_pool_and_linear_layer():
    model = sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, branch="convolutional", sample=X)
    branch = model.branches["block"]
    y = nn.functional.conv2d((2 * X).flatten(0, 1), branch.conv.weight, padding=1)
    y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    expected = (y.clamp(min=0).mean((2, 3)) @ branch.linear.weight.T + branch.linear.bias).reshape(2, 3, 5).mean(0)
    torch.testing.assert_close(model(X) - model.main(X), expected, rtol=1e-4, atol=1e-5)
    parts = {name.removeprefix("branches.block.") for name in sbp_torch.export_weights(model) if "branches" in name}
    norm = {f"bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    assert parts == {"conv.weight", "linear.weight", "linear.bias"} | norm
    assert (branch.conv.stride, branch.conv.padding, branch.bn.eps, branch.bn.momentum) == ((1, 1), (1, 1), 1e-5, 0.1)
    twin = sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, branch="convolutional", sample=X)
    sbp_torch.import_weights(twin, sbp_torch.export_weights(model))
    assert torch.equal(twin(X), model(X))


@pytest.mark.parametrize(("dimensions", "shape"), [(1, (2, 4, 6)), (3, (2, 4, 3, 3, 3))])
def test_a_convolutional_branch_has_one_two_or_three_axes_of_space(dimensions, shape):
    assert ConvolutionalBranch(4, 5, hidden=2, dimensions=dimensions)(torch.rand(shape)).shape == (2, 5)
    with pytest.raises(ValueError, match="dimensions must be 1, 2 or 3, got 4"):
        ConvolutionalBranch(4, 5, dimensions=4)
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        ConvolutionalBranch(4, 5, hidden=0)


def test_a_convolutional_branch_loads_what_was_saved_when_its_parts_had_numbers():
    made, other = (sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, branch="convolutional", sample=X) for _ in "ab")
    state = made.state_dict()
    numbers = {"conv": "0", "bn": "1", "linear": "3"}
    for name in [name for name in state if name.startswith("branches")]:
        part = name.split(".")[2]
        state[name.replace(part, numbers[part], 1)] = state.pop(name)
    assert "branches.block.0.weight" in state
    other.load_state_dict(state)
    assert torch.equal(other(X), made(X))


@pytest.mark.parametrize("space", [(), (7,), (3, 3), (3, 3, 3)])
def test_a_convolutional_branch_has_the_space_of_its_tap(space):
    x = torch.rand(2, 3, 4, *space)
    if not space:
        with pytest.raises(ValueError, match="cannot be 'convolutional': the tap has 0 axes of space"):
            sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, branch="convolutional", sample=x)
        return
    model = sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, branch="convolutional", sample=x)
    assert model.branches["block"].conv.weight.shape == (4, 4, *(3,) * len(space))
    assert model(x).shape == (3, 5)


def test_each_tap_may_have_a_branch_of_your_own():
    def own(channels, num_classes):
        return nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes, bias=False))

    model = sbp_torch.Shortcut(sbp_torch.ResNet(SPEC).double(), ["stem", "layer1"], 5, branch={"layer1": own})
    assert type(model.branches["stem"]) is LinearBranch
    tapped = {}
    for name in ("stem", "layer1"):
        model.main.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: tapped.update({name: o}))
    logits, main = model(IMAGES.double()), model.main(IMAGES.double())
    expected = main + (tapped["layer1"].amax((3, 4)) @ model.branches["layer1"][2].weight.T).mean(0)
    branch = model.branches["stem"]
    expected = expected + (tapped["stem"].mean((3, 4)) @ branch.weight.T + branch.bias).mean(0)
    torch.testing.assert_close(logits, expected)
    assert logits.dtype == torch.float64


class Stateful(nn.Module):
    """Remembers a potential between calls, as other libraries' neurons do."""

    def __init__(self):
        super().__init__()
        self.potential, self.memories = 0.0, {"v": 0.0}
        self.register_buffer("mem", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.potential = self.memories["v"] = self.mem = self.potential + x
        return self.potential


def test_a_sample_leaves_no_state_on_a_network_that_remembers():
    net = Chain(nn.Sequential(Scale(), Stateful()))
    sbp_torch.Shortcut(net, ["block"], 5, sample=X).strip()
    assert net.block[1].potential == 0.0
    assert net.block[1].memories == {"v": 0.0}
    assert net.block[1].mem.shape == ()
    net(X)  # from now on it remembers tensors with a graph
    remembered = net.block[1].potential
    model = sbp_torch.Shortcut(net, ["block"], 5, sample=(X,))
    assert net.block[1].potential is remembered
    assert model.branches["block"].in_features == 4


def test_a_sample_may_be_several_arguments_or_keywords():
    class Two(Chain):
        def forward(self, x, scale):
            return super().forward(x * scale)

    for sample in ((X, 2.0), {"x": X, "scale": 2.0}):
        assert sbp_torch.Shortcut(Two(Scale()), ["block"], 5, sample=sample).branches["block"].in_features == 4


def test_a_tap_in_a_checkpoint_that_is_computed_again_counts_once():
    class Again(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.net, self.reentrant = Chain(Scale()), reentrant

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=self.reentrant)

    plain = sbp_torch.Shortcut(Chain(Scale()), ["block"], 5, sample=X)
    model = sbp_torch.Shortcut(Again(False), ["net.block"], 5, time_axis=0, sample=X)
    model.main.net.load_state_dict(plain.main.state_dict())
    model.branches["net/block"].load_state_dict(plain.branches["block"].state_dict())
    for each in (plain, model):
        cross_entropy(each(X), LABELS).backward()
    assert torch.equal(model.main.net.block.weight.grad, plain.main.block.weight.grad)
    with pytest.raises(RuntimeError, match=r"'net.block' ran without gradient.*use_reentrant=False"):
        sbp_torch.Shortcut(Again(True), ["net.block"], 5, time_axis=0, sample=X)(X.clone().requires_grad_())


def test_a_batch_norm_that_is_converted_after_wrapping_is_read():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    model = sbp_torch.Shortcut(net, ["1"], 5, time_axis=None, sample=IMAGES)
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.eval()  # on a CPU it has no training
    branch = model.branches["1"]
    expected = net(IMAGES) + net[:2](IMAGES).mean((2, 3)) @ branch.weight.T + branch.bias
    torch.testing.assert_close(model(IMAGES), expected)
    assert hooks(model.strip()) == 0


def test_a_part_compiled_and_run_before_it_was_wrapped_is_named():
    net = sbp_torch.ResNet(SPEC)
    net.compile(backend="aot_eager")
    net(IMAGES)
    model = sbp_torch.Shortcut(net, ["layer1"], 5)
    with pytest.raises(RuntimeError, match=r"call torch.compiler.reset\(\) once"):
        model(IMAGES)
    torch.compiler.reset()
    reference = sbp_torch.Shortcut(sbp_torch.ResNet(SPEC), ["layer1"], 5)
    reference.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(IMAGES), reference(IMAGES))


@pytest.mark.parametrize("plain_first", [True, False])
def test_a_compiled_plain_network_of_the_same_class_does_not_take_the_hooks_away(plain_first):
    plain, net = (torch.compile(sbp_torch.ResNet(SPEC), backend="aot_eager") for _ in range(2))
    if plain_first:
        plain(IMAGES)  # torch.compile keeps its code for the class
    model = sbp_torch.Shortcut(net, ["layer1"], 5)
    eager = sbp_torch.Shortcut(copy.deepcopy(net._orig_mod), ["layer1"], 5)
    eager.branches.load_state_dict(model.branches.state_dict())
    for _ in range(2):
        torch.testing.assert_close(model(IMAGES), eager(IMAGES))
        plain(IMAGES)
    assert model.strip()(IMAGES).shape == (3, 5)


def test_taps_of_a_compiled_network_have_the_names_of_the_network():
    net = sbp_torch.ResNet(SPEC)
    model = sbp_torch.Shortcut(torch.compile(net, backend="aot_eager"), ["layer1.0"], 5, sample=IMAGES)
    assert list(model.branches) == ["layer1/0"]
    assert torch.compile(net, backend="aot_eager") is not model.strip() is model.main
    assert not any(module._forward_hooks for module in net.modules())


def test_an_average_of_models_is_a_shortcut_whose_network_can_be_taken():
    model = sbp_torch.Shortcut(sbp_torch.ResNet(SPEC), ["layer1"], 5)
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    first = model.main.head.weight.detach().clone()
    averaged.update_parameters(model)
    with torch.no_grad():
        model.main.head.weight += 1.0
    averaged.update_parameters(model)
    torch.testing.assert_close(averaged.module.main.head.weight, first + 0.5)
    assert averaged(IMAGES).shape == (3, 5)
    net = averaged.module.strip()
    assert not any(module._forward_hooks for module in net.modules())
    assert model(IMAGES).shape == (3, 5)


def test_a_network_distributed_before_it_was_wrapped_is_refused():
    with pytest.raises(ValueError, match=r"must not be a DataParallel.*wrapper, DataParallel\(Shortcut\(net, ...\)\)"):
        sbp_torch.Shortcut(nn.DataParallel(sbp_torch.ResNet(SPEC)), ["module.layer1"], 5)


def test_a_copy_of_a_model_with_selections_selects_for_itself():
    net = Chain(Scale(lambda x: (x, None)), lambda y: y[0])
    model = sbp_torch.Shortcut(net, ["block"], 5, sample=X, select=lambda pair: pair[0])
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X))
    twin.strip()
    assert model(X).shape == (3, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"select": 0}, TypeError, "select=0 takes a part of a tuple, list or mapping, but tap 'block' gave a Tensor"),
        ({"select": 1.5}, TypeError, "select must be an index, a key, a function or None, got 1.5 of type float"),
        ({"select": {"blok": 0}}, ValueError, "select must be given for taps, 'block'; got 'blok'"),
        ({"select": lambda x: [x]}, TypeError, "tap 'block' must give a tensor, it with select=.* gave a list"),
        ({"output": 0}, TypeError, "output=0 takes a part of a tuple, list or mapping, but net gave a Tensor"),
        ({"output": len}, TypeError, "output must be an index, a key or None"),
        ({"output": True}, TypeError, "output must be an index, a key or None, got True"),
        ({"channels": "middle"}, ValueError, "channels must be one of 'first', 'last'; got 'middle'"),
        ({"branch": "liner"}, ValueError, "branch must be one of 'linear', 'convolutional'; got 'liner'"),
        ({"branch": nn.Linear(4, 5)}, TypeError, "branch of tap 'block' must be a name or a function.*got a Linear"),
        ({"branch": {"other": "linear"}}, ValueError, "branch must be given for taps, 'block'; got 'other'"),
        (
            {"branch": lambda c, n: c},
            TypeError,
            "branch of tap 'block' must return a torch.nn.Module, it returned a int",
        ),
        ({"branch": "convolutional", "sample": None}, ValueError, "needs the number of channels: pass sample"),
        (
            {"branch": lambda c, n: nn.Sequential(LinearBranch(c, n + 1))},
            ValueError,
            r"branch of tap 'block' must return logits of shape \(items, num_classes\) = \(6, 5\).*returned \(6, 6\)",
        ),
        ({"time_axis": "call"}, ValueError, "time_axis must be 0, 1, None, 'calls' or 'merged'; got 'call'"),
        (
            {"time_axis": "calls"},
            ValueError,
            r"'block' gave shape \(2, 3, 4, 5, 5\), which is no \(batch, channels, ...\)",
        ),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(arguments, error, message):
    net = Chain(Scale())
    with pytest.raises(error, match=message):
        sbp_torch.Shortcut(net, ["block"], 5, **({"sample": X} | arguments))(X)


def test_a_part_that_does_not_exist_lists_those_that_do():
    for wrap, select, message in (
        (lambda x: (x, x), 2, "select=2 does not exist: tap 'block' gave a tuple of the parts 0, 1"),
        (lambda x: {"a": x}, "b", "select='b' does not exist: tap 'block' gave a dict of the keys"),
    ):
        net = Chain(Scale(wrap), unwrap=lambda y: y[0] if isinstance(y, tuple) else y["a"])
        with pytest.raises(ValueError, match=message):
            sbp_torch.Shortcut(net, ["block"], 5, select=select)(X)


def test_the_scheduler_finds_shortcuts_in_a_larger_model():
    models = [sbp_torch.Shortcut(sbp_torch.ResNet(SPEC), ["layer1"], 5) for _ in range(2)]
    sbp_torch.CoefficientScheduler(nn.ModuleList(models), Constant(value=0.5, total_steps=1))
    assert [model.coefficient.item() for model in models] == [0.5, 0.5]
