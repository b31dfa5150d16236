"""The shortcut around a network: what it adds in training, and that nothing is left of it afterwards."""

import copy
import gc
import io
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy

import sbp_torch
from sbp_core import Constant, Evolutionary, LIFSpec, ResNetSpec, ShortcutOutput, Step

SEED = 20261123
SPEC = ResNetSpec(depths=(1, 1), widths=(3, 4), in_channels=2, num_classes=5, time_steps=2)
IMAGES = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(SEED))
LABELS = torch.tensor([0, 4, 2])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(SEED)
    torch.compiler.reset()


def make(**arguments):
    arguments = {"taps": ["stem", "layer1"], "num_classes": 5} | arguments
    return sbp_torch.Shortcut(sbp_torch.ResNet(SPEC), **arguments)


def hooks(net):
    return sum(len(module._forward_hooks) for module in net.modules())


class Layout(nn.Module):
    """A network without a spec; its block gives the input times 2, in whatever layout that is."""

    def __init__(self, batch_axis=1):
        super().__init__()
        self.block, self.norm, self.batch_axis = Double(), nn.BatchNorm1d(1), batch_axis
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        batch = x.shape[self.batch_axis]
        y = self.block(x).transpose(0, self.batch_axis).reshape(batch, -1)[:, :5]
        return self.norm(y.reshape(-1, 1)).reshape(batch, 5) * self.scale


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def test_training_adds_the_branches_logits_times_the_coefficient():
    model = make()
    model.set_coefficient(0.25)
    net, total = model.main, 0.0
    x = IMAGES
    for name in ("stem", "layer1"):
        x = net.get_submodule(name)(x)
        branch = model.branches[name]
        total = total + (x.mean((3, 4)) @ branch.weight.T + branch.bias).mean(0)
    torch.testing.assert_close(model(IMAGES), net(IMAGES) + 0.25 * total, rtol=1e-5, atol=1e-6)
    assert total.abs().max() > 0.1


def test_the_coefficient_is_one_until_it_is_set():
    model = make()
    assert model.coefficient.shape == ()
    assert model.coefficient.item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_coefficient_is_as_precise_as_the_network_and_its_logits_keep_their_dtype(dtype):
    model = sbp_torch.Shortcut(sbp_torch.ResNet(SPEC).to(dtype), ["stem"], 5)
    model.set_coefficient(0.3)
    wanted = 0.3 if dtype == torch.float64 else torch.tensor(0.3).item()
    assert model.coefficient.item() == wanted
    assert model(IMAGES.to(dtype)).dtype == dtype


def test_evaluation_is_the_network_alone_and_runs_no_branch():
    model, calls = make(), []
    for branch in model.branches.values():
        branch.register_forward_hook(lambda *_: calls.append(1))
    model.eval()
    assert torch.equal(model(IMAGES), model.main(IMAGES))
    assert not calls
    model.train()(IMAGES)
    assert len(calls) == 2


def test_a_branch_at_coefficient_zero_is_multiplied_not_skipped():
    model = make()
    model.set_coefficient(0.0)
    logits = model(IMAGES)
    cross_entropy(logits, LABELS).backward()
    for branch in model.branches.values():
        assert torch.equal(branch.weight.grad, torch.zeros_like(branch.weight))


def test_the_first_layer_gets_its_gradient_through_the_branches():
    # a head of zeros lets nothing through the main path: what arrives came by the shortcut (Eq. 9)
    model = make()
    nn.init.zeros_(model.main.head.weight)
    norms = []
    for coefficient in (0.0, 0.5):
        model.zero_grad()
        model.set_coefficient(coefficient)
        cross_entropy(model(IMAGES), LABELS).backward()
        norms.append(model.main.stem.conv.weight.grad.norm().item())
    assert norms[0] == 0.0
    assert norms[1] > 1e-4


def test_losses_apart_give_each_output_for_its_own_loss():
    model = make(combine="losses")
    output = model(IMAGES)
    assert isinstance(output, ShortcutOutput)
    main, branches = output
    separate = cross_entropy(main, LABELS) + 0.25 * sum(cross_entropy(branch, LABELS) for branch in branches)
    summed = cross_entropy(main + 0.25 * sum(branches), LABELS)
    torch.testing.assert_close(sbp_torch.ShortcutLoss()(output, LABELS, 0.25), separate)
    torch.testing.assert_close(sbp_torch.ShortcutLoss("logits")(output, LABELS, torch.tensor(0.25)), summed)
    assert abs(separate - summed) > 1e-3
    assert isinstance(model.eval()(IMAGES), torch.Tensor)


def test_strip_returns_the_very_object_with_nothing_left_on_it():
    net = sbp_torch.ResNet(SPEC)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    model = sbp_torch.Shortcut(net, ["layer1", "layer1.0"], 5)
    assert hooks(net) == 2
    assert set(model.main.state_dict()) == set(before)
    assert model.strip() is net is model.main
    assert model.strip() is net
    assert hooks(net) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(RuntimeError, match="stripped"):
        model(IMAGES)
    assert torch.equal(model.eval()(IMAGES), net(IMAGES))


def test_a_network_is_in_one_shortcut_at_a_time():
    net = sbp_torch.ResNet(SPEC)
    first = sbp_torch.Shortcut(net, ["layer1"], 5)
    for again in (net, nn.Sequential(net), first):
        tap = next(name for name, _ in again.named_modules() if name.endswith("layer1"))
        with pytest.raises(ValueError, match=r"net is wrapped in a Shortcut already.*net = other.strip\(\)"):
            sbp_torch.Shortcut(again, [tap], 5)
    assert hooks(net) == 1
    twin = copy.deepcopy(first)
    with pytest.raises(ValueError, match="already"):
        sbp_torch.Shortcut(twin.main, ["layer1"], 5)
    second = sbp_torch.Shortcut(first.strip(), ["stem"], 5)
    assert second(IMAGES).shape == (3, 5)
    assert hooks(net) == 1


def test_a_shortcut_that_is_gone_without_having_been_stripped_leaves_the_network_free():
    net = sbp_torch.ResNet(SPEC)
    sbp_torch.Shortcut(net, ["layer1"], 5)
    other = copy.deepcopy(sbp_torch.Shortcut(net, ["stem"], 5).main)
    for each in (net, other):
        model = sbp_torch.Shortcut(each, ["layer1"], 5)
        assert model(IMAGES).shape == (3, 5)
        assert hooks(model.strip()) == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_copy_records_for_itself(duplicate):
    model = make()
    twin = duplicate(model)
    assert torch.equal(twin(IMAGES), model(IMAGES))
    twin.strip()
    assert hooks(twin.main) == 0
    assert hooks(model.main) == 2
    assert model(IMAGES).shape == (3, 5)


def test_a_state_dict_restores_network_branches_and_coefficient():
    model, other = make(), make()
    model.set_coefficient(0.125)
    other.load_state_dict(model.state_dict())
    assert other.coefficient.item() == 0.125
    assert torch.equal(other(IMAGES), model(IMAGES))


def test_nothing_tapped_outlives_the_step():
    model, alive = make(), []
    model.main.layer1[0].neuron2.register_forward_hook(lambda m, i, o: alive.append(weakref.ref(o)))
    for run in (model, model.main):
        logits = run(IMAGES)
        del logits
        gc.collect()
    assert len(alive) == 2
    assert all(tensor() is None for tensor in alive)


def test_a_failing_network_leaves_the_shortcut_usable():
    model = make()
    with pytest.raises(ValueError, match="channels"):
        model(torch.rand(3, 1, 8, 8))
    assert model(IMAGES).shape == (3, 5)


def test_a_moving_coefficient_does_not_recompile():
    counter = CompileCounterWithBackend("aot_eager")
    model = make()
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=counter)
    scheduler = sbp_torch.CoefficientScheduler(compiled, Evolutionary(initial=0.5, total_steps=4))
    for _ in range(4):
        eager.set_coefficient(scheduler.last_value)
        found, expected = compiled(IMAGES), eager(IMAGES)
        torch.testing.assert_close(found, expected)
        gradients = []
        for owner, logits in ((model, found), (eager, expected)):
            owner.zero_grad()
            cross_entropy(logits, LABELS).backward()
            gradients.append(owner.main.stem.conv.weight.grad)
        torch.testing.assert_close(*gradients)
        scheduler.step()
    assert counter.frame_count == 1
    compiled.eval()
    eager.main.load_state_dict(model.main.state_dict())
    torch.testing.assert_close(compiled(IMAGES), eager.eval()(IMAGES))


def test_the_coefficient_may_move_before_the_backward_pass():
    model = make()
    scheduler = sbp_torch.CoefficientScheduler(model, Evolutionary(initial=1.0, total_steps=2))
    loss = model(IMAGES).sum()
    scheduler.step()
    loss.backward()
    # mean over time of 3 images, times the coefficient at the forward pass, 0.5
    torch.testing.assert_close(model.branches["stem"].bias.grad, torch.full((5,), 1.5))


def test_gradients_per_sample_by_vmap_equal_those_of_a_loop():
    model = make().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    parameters, images = dict(model.named_parameters()), IMAGES.double()

    def loss(parameters, image, label):
        logits = torch.func.functional_call(model, parameters, (image.unsqueeze(0),))
        return cross_entropy(logits, label.unsqueeze(0))

    gradient = torch.func.grad(loss)
    mapped = torch.vmap(gradient, (None, 0, 0))(parameters, images, LABELS)
    for index in range(3):
        single = gradient(parameters, images[index], LABELS[index])
        for name in ("main.stem.conv.weight", "branches.stem.weight"):
            torch.testing.assert_close(mapped[name][index], single[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("time_axis", "shape", "channels"),
    [
        (0, (4, 3, 6), 6),
        (0, (4, 3, 6, 7), 6),
        (0, (4, 3, 6, 2, 3, 2), 6),
        (1, (3, 4, 6, 5, 5), 6),
        (None, (3, 6, 5, 5), 6),
        (None, (3, 6), 6),
    ],
)
@pytest.mark.parametrize("with_sample", [False, True])
def test_any_layout_is_pooled_over_space_and_averaged_over_time(time_axis, shape, channels, with_sample):
    x = torch.rand(shape)
    net = Layout(batch_axis=1 if time_axis == 0 else 0)
    model = sbp_torch.Shortcut(net, ["block"], 5, time_axis=time_axis, sample=x if with_sample else None)
    assert isinstance(model.branches["block"], nn.LazyLinear) != with_sample
    logits = model(x)
    features = 2 * x.numpy()
    if time_axis is not None:
        features = features.mean(time_axis)
    features = features.reshape(3, channels, -1).mean(2)
    branch = model.branches["block"]
    expected = features @ branch.weight.detach().numpy().T + branch.bias.detach().numpy()
    np.testing.assert_allclose((logits - model.main(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_sample_run_changes_neither_statistics_nor_modes():
    net = Layout()
    net.block.eval()
    before = copy.deepcopy(net.state_dict())
    model = sbp_torch.Shortcut(net, ["block"], 5, time_axis=0, sample=torch.rand(4, 3, 6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    assert net.norm.training
    assert not net.block.training
    assert model.branches["block"].weight.shape == (5, 6)


def test_branches_are_made_in_the_networks_dtype():
    model = sbp_torch.Shortcut(sbp_torch.ResNet(SPEC).double(), ["layer1"], 5)
    assert model(IMAGES.double()).dtype == torch.float64


def test_taps_named_like_methods_or_with_dots_get_branches():
    net = nn.Sequential()
    net.add_module("values", nn.Linear(2, 3))
    net.add_module("rest", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
    model = sbp_torch.Shortcut(net, ["values", "rest.0"], 5, time_axis=None, sample=torch.rand(3, 2))
    assert model(torch.rand(3, 2)).shape == (3, 5)
    names = set(sbp_torch.export_weights(model))
    assert {"branches.values.weight", "branches.rest.0.weight", "main.rest.0.weight"} < names


def test_lazy_branches_train_with_an_optimizer_made_before_the_first_batch():
    model = make(taps=["layer1.0"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cross_entropy(model(IMAGES), LABELS).backward()
    before = model.branches["layer1/0"].weight.clone()
    optimizer.step()
    assert not torch.equal(model.branches["layer1/0"].weight, before)


def test_weights_of_a_lazy_branch_do_not_exist_yet():
    with pytest.raises(ValueError, match=r"branch at 'layer1.0' has no size yet"):
        sbp_torch.export_weights(make(taps=["layer1.0"]))


class Odd(nn.Module):
    """A network with blocks that cannot be tapped."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.pair = Double(), Double(), Pair()
        self.fold = Double()

    def forward(self, x):
        self.fold(x.flatten(0, 1))
        return self.pair(self.twice(self.twice(x)))[0].mean(0)[:, :5]


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("tap", "error", "message"),
    [
        ("twice", RuntimeError, "'twice' ran twice"),
        ("never", RuntimeError, "'never' did not run"),
        ("pair", TypeError, "'pair' must give a tensor, it gave a tuple"),
        ("fold", ValueError, r"'fold' gave shape \(12, 6\).*pass time_axis='merged', time_steps=4 "),
    ],
)
def test_a_block_that_cannot_be_tapped_says_why(tap, error, message):
    net = Odd()
    with pytest.raises(error, match=message):
        sbp_torch.Shortcut(net, [tap], 5, time_axis=0)(torch.rand(4, 3, 6))
    with pytest.raises(error, match=message):
        sbp_torch.Shortcut(Odd(), [tap], 5, time_axis=0, sample=torch.rand(4, 3, 6))


@pytest.mark.parametrize("time_axis", [0, 1])
def test_the_wrong_time_axis_is_an_error_that_names_the_right_one(time_axis):
    x = torch.rand(4, 3, 6) if time_axis == 1 else torch.rand(3, 4, 6)
    net = Layout(batch_axis=1 if time_axis == 1 else 0)
    with pytest.raises(ValueError, match=f"pass time_axis={1 - time_axis} for"):
        sbp_torch.Shortcut(net, ["block"], 5, time_axis=time_axis)(x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"taps": ["layr1"]}, ValueError, "tap 'layr1' does not exist; did you mean 'layer1'.*stem.*layer1.*head"),
        ({"taps": []}, ValueError, "at least one"),
        ({"taps": "layer1"}, TypeError, "taps must be a sequence"),
        ({"taps": ["layer1", "layer1"]}, ValueError, "must not repeat"),
        ({"combine": "both"}, ValueError, "combine must be one of"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"time_axis": 2}, ValueError, "time_axis must be 0, 1, None, 'calls' or 'merged'; got 2"),
        ({"time_axis": True}, ValueError, "time_axis must be 0, 1, None, .* got True"),
    ],
)
def test_bad_arguments_say_what_is_allowed_and_leave_no_hook(arguments, error, message):
    net = sbp_torch.ResNet(SPEC)
    with pytest.raises(error, match=message):
        sbp_torch.Shortcut(net, **({"taps": ["layer1"], "num_classes": 5} | arguments))
    assert hooks(net) == 0


def test_a_network_of_other_classes_or_outputs_is_refused():
    with pytest.raises(ValueError, match=r"\(batch, num_classes\) = \(batch, 7\), it returned \(3, 5\)"):
        make(num_classes=7)(IMAGES)
    net = nn.Sequential(nn.Linear(2, 2), Pair())
    with pytest.raises(TypeError, match="net must give a tensor, it gave a tuple; say with output"):
        sbp_torch.Shortcut(net, ["0"], 2, time_axis=None, sample=torch.rand(3, 2))
    assert hooks(net) == 0
    with pytest.raises(TypeError, match=r"net must be a torch.nn.Module"):
        sbp_torch.Shortcut(lambda x: x, ["0"], 2)


def test_the_scheduler_uses_the_schedule_of_the_step_from_one_and_stays_at_the_end():
    model, schedule = make(), Evolutionary(initial=0.25, total_steps=4)
    scheduler = sbp_torch.CoefficientScheduler(model, schedule)
    values = []
    for _ in range(6):
        values.append(model.coefficient.item())
        assert scheduler.last_value == pytest.approx(values[-1])
        scheduler.step()
    np.testing.assert_allclose(values, [0.1875, 0.125, 0.0625, 0.0, 0.0, 0.0])


def test_a_resumed_scheduler_goes_on_exactly_where_it_was():
    schedule = Step(initial=0.4, factor=0.3, milestones=(0.3, 0.6), total_steps=9, per="epoch", steps_per_epoch=2)
    model, other = make(), make()
    scheduler, resumed = (sbp_torch.CoefficientScheduler(m, schedule) for m in (model, other))
    for _ in range(5):
        scheduler.step()
    resumed.load_state_dict(pickle.loads(pickle.dumps(scheduler.state_dict())))
    for _ in range(5):
        assert other.coefficient.item() == model.coefficient.item()
        assert resumed.last_value == scheduler.last_value
        scheduler.step()
        resumed.step()


def test_a_scheduler_is_not_restored_under_another_schedule_without_a_word():
    schedule = Step(initial=0.4, factor=0.3, milestones=(0.3, 0.6), total_steps=9)
    scheduler = sbp_torch.CoefficientScheduler(make(), schedule)
    for _ in range(5):
        scheduler.step()
    file = io.BytesIO()
    torch.save(scheduler.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    longer, same = (sbp_torch.CoefficientScheduler(make(), s) for s in (schedule.replace(total_steps=18), schedule))
    with pytest.raises(ValueError, match=r"another schedule, total_steps=9 and not 18.*load_state_dict\({'step': 6}\)"):
        longer.load_state_dict(state)
    assert longer.last_value == schedule.replace(total_steps=18)(1)
    with pytest.raises(ValueError, match="kind='step' and not 'constant'"):
        sbp_torch.CoefficientScheduler(make(), Constant()).load_state_dict(state)
    longer.load_state_dict({"step": state["step"]})
    same.load_state_dict(state)
    assert (longer.last_value, same.last_value) == (schedule.replace(total_steps=18)(6), scheduler.last_value)
    by_function = sbp_torch.CoefficientScheduler(make(), lambda step: 1.0 / step)
    by_function.load_state_dict(by_function.state_dict())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sbp_torch.CoefficientScheduler(make(), Evolutionary()), ValueError, "total_steps"),
        (
            lambda: sbp_torch.CoefficientScheduler(make(), Evolutionary(total_steps=9, per="epoch")),
            ValueError,
            "steps_per_epoch",
        ),
        (lambda: sbp_torch.CoefficientScheduler(make(), 0.25), TypeError, "schedule must be"),
        (lambda: sbp_torch.CoefficientScheduler(nn.Linear(1, 1), Constant()), ValueError, "hold a Shortcut"),
        (lambda: sbp_torch.CoefficientScheduler(None, Constant()), TypeError, "model must be"),
        (
            lambda: sbp_torch.CoefficientScheduler(make(), Constant()).load_state_dict({"last_epoch": 3}),
            ValueError,
            "state must be that of",
        ),
        (lambda: make().set_coefficient(float("nan")), ValueError, "coefficient must be finite"),
        (lambda: sbp_torch.ShortcutLoss("sum"), ValueError, "combine must be one of"),
        (lambda: sbp_torch.ShortcutLoss()(torch.rand(2, 5), LABELS, 1.0), TypeError, "output must be a ShortcutOutput"),
        (
            lambda: sbp_torch.ShortcutLoss()(make(combine="losses")(IMAGES), LABELS.float(), 1.0),
            TypeError,
            "must be integer classes, got torch.float32",
        ),
    ],
)
def test_bad_schedules_and_losses_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_loop_of_the_usage_page_runs_at_smaller_widths():
    spec = LIFSpec()
    lif = sbp_torch.LIF(decay=0.5, threshold=1.0, surrogate="rectangle")
    spikes = lif(torch.randn(4, 16, 8, 4, 4))
    assert spikes.shape == (4, 16, 8, 4, 4)
    spikes, _ = sbp_torch.lif(torch.randn(4, 16, 8), spec, state=None)
    net = sbp_torch.resnet18(num_classes=10, time_steps=4, widths=(4, 4, 8, 8))
    model = sbp_torch.Shortcut(net, taps=["layer1", "layer2", "layer3"], num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = sbp_torch.CoefficientScheduler(model, Evolutionary(initial=0.25, total_steps=1000))
    logits = model(torch.rand(2, 3, 16, 16))
    loss = cross_entropy(logits, torch.tensor([3, 7]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    assert model.strip() is net
    assert model.coefficient.item() == pytest.approx(0.25 * (1 - 2 / 1000))


class Stated(nn.Module):
    """A network that states its stages as timm's do."""

    def __init__(self, modules=("a", "b", "c"), wrapped=False):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 1) for _ in range(3))
        self.head = nn.Linear(2, 3)
        info = [{"num_chs": 2, "reduction": 2, "module": name} for name in modules]
        self.feature_info = type("FeatureInfo", (), {"info": info})() if wrapped else info

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x))).mean((2, 3)))


@pytest.mark.parametrize("wrapped", [False, True])
def test_stages_are_what_the_network_states_but_the_last(wrapped):
    model = sbp_torch.Shortcut(Stated(wrapped=wrapped), "stages", 3, time_axis=None)
    assert model.spec.taps == ("a", "b")
    assert model(torch.rand(4, 2, 3, 3)).shape == (4, 3)
    assert sbp_torch.Shortcut(sbp_torch.Network(SPEC), "stages", 5).spec.taps == ("layer1",)


def test_stages_of_a_network_that_states_none_are_refused_with_what_it_has():
    with pytest.raises(ValueError, match=r"taps='stages' needs .*; Linear states none"):
        sbp_torch.Shortcut(nn.Linear(2, 2), "stages", 2)
    with pytest.raises(ValueError, match=r"Stated states \['a'\]. Name modules: a, b, c, head"):
        sbp_torch.Shortcut(Stated(("a",)), "stages", 3, time_axis=None)
