"""Networks as their users have them: changed after wrapping, replicated, with losses of their own, in odd layouts."""

import copy
import pickle
import random
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.functional import cross_entropy, linear

import sbp_torch
from sbp_core import ResNetSpec

SEED = 20261125
X = torch.rand(3, 4, generator=torch.Generator().manual_seed(SEED))
LABELS = torch.tensor([0, 4, 2])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(SEED)
    torch.compiler.reset()


def hooks(net):
    return sum(len(module._forward_hooks) for module in net.modules())


class Block(nn.Module):
    def __init__(self, inputs=4, outputs=6):
        super().__init__()
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x):
        return self.fc(x).tanh()


class Net(nn.Module):
    """Two blocks and a head, over the last axis."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = Block(), Block(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


def wrapped(net=None, taps=("first", "second.fc"), **options):
    return sbp_torch.Shortcut(net or Net(), taps, 5, time_axis=None, sample=X, **options)


def by_hand(model, x=X):
    """Return logits composed from hooks that are put on for this one call, on what is at the taps now."""
    found, handles = {}, []
    for tap in model.spec.taps:
        module = model.main
        for name in tap.split("."):
            module = getattr(module, name)
        handles.append(module.register_forward_hook(lambda m, i, o, tap=tap: found.update({tap: o})))
    total = model.main(x)
    for handle in handles:
        handle.remove()
    for tap, branch in zip(model.spec.taps, model.branches.values(), strict=True):
        total = total + model.coefficient * linear(found[tap], branch.weight, branch.bias)
    return total


class LoRA(nn.Module):
    """An adapter as PEFT puts it round a layer, in its place."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 3 * self.inner(x)


def adapt(model):
    model.main.first = Around(model.main.first)
    model.main.second.fc = LoRA(model.main.second.fc)


def test_what_is_put_round_a_tapped_module_later_is_read_and_gets_its_gradient():
    model = wrapped()
    before = model(X)
    adapt(model)
    logits = model(X)
    torch.testing.assert_close(logits, by_hand(model))
    assert (logits - before).abs().max() > 1e-2
    cross_entropy(logits, LABELS).backward()
    nn.init.zeros_(model.main.head.weight)  # now gradients come through the branches alone
    model.zero_grad()
    cross_entropy(model(X), LABELS).backward()
    assert model.main.second.fc.up.weight.grad.abs().max() > 1e-4
    assert hooks(model.strip()) == 0


def test_an_adapter_that_is_merged_again_leaves_the_layer_tapped():
    model = wrapped()
    layer = model.main.second.fc
    adapt(model)
    model(X)
    model.main.second.fc = layer
    torch.testing.assert_close(model(X), by_hand(model))
    assert hooks(model.strip()) == 0


def test_a_layer_that_takes_another_ones_place_is_tapped():
    model = wrapped()
    model.main.second.fc = nn.Linear(6, 6)
    torch.testing.assert_close(model(X), by_hand(model))


def test_a_hook_that_changes_the_output_later_is_read_too():
    model = wrapped()
    model.main.first.register_forward_hook(lambda m, i, output: 2 * output)
    torch.testing.assert_close(model(X), by_hand(model))
    assert hooks(model.strip()) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_adapter_is_read_in_a_compiled_shortcut(when):
    model = wrapped()
    compiled = torch.compile(model, backend="aot_eager")
    if when == "after":
        compiled(X)
    adapt(model)
    torch.testing.assert_close(compiled(X), by_hand(model))
    torch.testing.assert_close(compiled(X), by_hand(model))


def test_a_checkpoint_put_round_a_block_changes_nothing():
    model = wrapped(taps=("first.fc", "second"))
    expected = model(X)
    model.main.first = checkpoint_wrapper(model.main.first)
    model.main.second = checkpoint_wrapper(model.main.second)
    assert torch.equal(model(X), expected)
    cross_entropy(model(X), LABELS).backward()
    assert model.main.first.fc.weight.grad is not None
    assert hooks(model.strip()) == 0


def test_a_part_that_is_compiled_or_parametrized_after_wrapping_is_read():
    model = wrapped()
    expected = model(X)
    model.main.first = torch.compile(model.main.first, backend="aot_eager")
    torch.testing.assert_close(model(X), expected)
    nn.utils.parametrizations.weight_norm(model.main.second.fc)
    torch.testing.assert_close(model(X), expected)
    assert hooks(model.strip()) == 0


def test_a_layer_that_is_quantized_for_training_is_read_quantized():
    model = wrapped(taps=("second.fc",))
    layer = model.main.second.fc
    layer.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    quantized = torch.ao.nn.qat.Linear.from_float(layer)
    for key, hook in layer._forward_hooks.items():
        quantized._forward_hooks[key] = hook  # as torch.ao's swap of modules carries them over
    model.main.second.fc = quantized
    model(X)  # the observer has seen a range
    torch.testing.assert_close(model(X), by_hand(model))
    assert hooks(model.strip()) == 0


def test_a_path_that_leads_nowhere_any_more_is_an_error():
    model = wrapped()
    model.main.second = nn.Sequential(model.main.second)
    with pytest.raises(RuntimeError, match=r"tap 'second.fc' leads to no module any more.*wrap the network again"):
        model(X)
    assert hooks(model.strip()) == 0


def test_a_network_distributed_inside_its_shortcut_is_refused():
    model = wrapped()
    model.main = nn.DataParallel(model.main)
    with pytest.raises(RuntimeError, match=r"main must not be a DataParallel.*DataParallel\(Shortcut\(net, ...\)\)"):
        model(X)


def replicas(model, number):
    """Return copies as ``torch.nn.parallel.replicate`` makes them, all on one device."""
    modules = list(model.modules())
    place = {module: index for index, module in enumerate(modules)}
    made = []
    for _ in range(number):
        copies = [module._replicate_for_data_parallel() for module in modules]
        for module, twin in zip(modules, copies, strict=True):
            for name, child in module._modules.items():
                twin._modules[name] = None if child is None else copies[place[child]]
                setattr(twin, name, twin._modules[name])
            for name, parameter in module._parameters.items():
                setattr(twin, name, None if parameter is None else parameter.view_as(parameter))
        made.append(copies[0])
    return made


class Waits(nn.Module):
    """Lets the replicas meet between their two blocks, so that what one records could reach the other."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = Block(), Block(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = self.first(x)
        Waits.barrier.wait(10)
        x = self.second(x)
        Waits.barrier.wait(10)
        return self.head(x)


@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_replicas_in_threads_record_each_for_itself(combine, monkeypatch):
    monkeypatch.setattr(Waits, "barrier", threading.Barrier(1), raising=False)
    net = Waits()
    model = wrapped(net, taps=("first", "second.fc"), combine=combine)
    shards = [torch.rand(2, 4), torch.rand(3, 4)]
    expected = [model(shard) for shard in shards]
    monkeypatch.setattr(Waits, "barrier", threading.Barrier(2))
    found = {}
    threads = [
        threading.Thread(target=lambda i=i, twin=twin: found.update({i: twin(shards[i])}))
        for i, twin in enumerate(replicas(model, 2))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for index, wanted in enumerate(expected):
        torch.testing.assert_close(found[index], wanted)
    monkeypatch.setattr(Waits, "barrier", threading.Barrier(1))
    torch.testing.assert_close(model(shards[0]), expected[0])  # the original has its hooks still
    assert hooks(net) == 2
    assert hooks(model.strip()) == 0


class ModelOutput(OrderedDict):
    """A mapping whose entries are attributes too, as transformers' outputs are."""

    def __getattr__(self, name):
        return self[name]


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Classifier(Net):
    """Computes its loss where it is given labels, as transformers' networks do."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x, labels=None):
        logits = super().forward(x)
        loss = None if labels is None else cross_entropy(logits, labels)
        if self.kind is tuple:
            return (logits,) if loss is None else (loss, logits)
        return self.kind(logits=logits) if loss is None else self.kind(logits=logits, loss=loss)


@pytest.mark.parametrize("kind", [ModelOutput, dict, Output, tuple])
def test_a_network_that_returns_its_own_loss_is_told_that_the_branches_have_no_part_in_it(kind):
    output = 0 if kind is tuple else "logits"
    model = wrapped(Classifier(kind), output=output)
    result = model(X)
    logits = result[0] if kind is tuple else result.logits if kind is Output else result["logits"]
    torch.testing.assert_close(logits, by_hand(wrapped_like(model)))
    model.main.eval()
    if kind is tuple:
        model._output = 1
    with pytest.raises(RuntimeError, match=r"gave a loss of its own.*Leave the labels out of the call"):
        model(X, labels=LABELS)
    assert model.eval()(X, labels=LABELS) is not None  # evaluation is the network's own


def wrapped_like(model):
    """Return a model with the same parts whose network gives its logits alone."""
    net = Net()
    net.load_state_dict(model.main.state_dict())
    other = wrapped(net, taps=model.spec.taps)
    other.branches.load_state_dict(model.branches.state_dict())
    return other


def test_a_part_that_is_a_penalty_and_no_loss_is_let_through():
    class Penalized(Net):
        def forward(self, x):
            logits = super().forward(x)
            return {"logits": logits, "penalty": logits.square().mean()}

    result = wrapped(Penalized(), output="logits")(X)
    assert result["penalty"].requires_grad


class Auxiliary(nn.Module):
    """Gives a second head's logits in training alone, as GoogLeNet and Inception do; with norm and dropout."""

    def __init__(self):
        super().__init__()
        self.block, self.aux, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)
        self.bn, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x):
        x = self.dropout(self.bn(self.block(x).mean((2, 3))))
        random.random()
        np.random.rand()
        return Auxiliaries(self.head(x), self.aux(x)) if self.training else self.head(x)


@dataclass
class Auxiliaries:
    logits: torch.Tensor
    aux_logits: torch.Tensor


def test_a_sample_runs_as_training_will_and_leaves_statistics_modes_and_random_numbers():
    net, x = Auxiliary(), torch.rand(1, 3, 8, 8)
    net.bn.eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    random.seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    model = sbp_torch.Shortcut(net, ["block"], 5, time_axis=None, sample=x, output="logits", branch=no_numbers)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert model(torch.rand(2, 3, 8, 8)).aux_logits.shape == (2, 5)
    assert model.eval()(x).shape == (1, 5)


def no_numbers(channels, num_classes):
    """Make a branch without drawing random numbers."""
    branch = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.utils.skip_init(nn.Linear, channels, num_classes))
    for parameter in branch.parameters():
        nn.init.zeros_(parameter)
    return branch


class Masked(nn.Module):
    """torch's own encoder, which takes a fast path of nested tensors in evaluation."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(4, 5)

    def forward(self, tokens, padding):
        return self.head(self.encoder(tokens, src_key_padding_mask=padding).mean(1))


def test_a_transformer_encoder_with_a_padding_mask_is_sampled_and_trained():
    tokens, padding = torch.rand(3, 6, 4), torch.arange(6) >= torch.tensor([[6], [4], [5]])
    net = Masked()
    taps = ["encoder.layers.0", "encoder.layers.1.self_attn"]
    model = sbp_torch.Shortcut(
        net,
        taps,
        5,
        time_axis=None,
        channels="last",
        select={"encoder.layers.1.self_attn": 0},
        sample=(tokens[:1], padding[:1]),
    )
    logits = model(tokens, padding)
    cross_entropy(logits, LABELS).backward()
    assert net.encoder.layers[0].linear1.weight.grad.abs().max() > 0
    assert model.eval()(tokens, padding).shape == (3, 5)


def test_a_network_that_has_no_sizes_yet_is_asked_to_run_first():
    net = nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 5))
    with pytest.raises(ValueError, match=r"'0.weight' has none yet; run it on a batch before wrapping it"):
        sbp_torch.Shortcut(net, ["0"], 5, time_axis=None, sample=X)
    assert nn.parameter.is_lazy(net[0].weight)


def test_a_network_that_cannot_be_copied_is_wrapped_without_a_sample():
    net = Net()
    net.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"sample is run through a copy of net, which cannot be copied \(cannot pickle"):
        wrapped(net)
    assert sbp_torch.Shortcut(net, ["first"], 5, time_axis=None)(X).shape == (3, 5)


class Recurrent(nn.Module):
    """A recurrent cell in a loop, which gives a state beside its output."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, 6), nn.Linear(6, 5)

    def forward(self, sequence):
        state = None
        for x in sequence:
            state = self.cell(x, state)
        return self.head(state[0])


def test_a_recurrent_cell_in_a_loop_is_read_over_its_steps():
    sequence = torch.rand(7, 3, 4)
    net = Recurrent()
    model = sbp_torch.Shortcut(net, ["cell"], 5, time_axis="calls", select=0, sample=sequence)
    outputs, handle = [], None
    handle = net.cell.register_forward_hook(lambda m, i, o: outputs.append(o[0]))
    expected = net(sequence)
    handle.remove()
    branch = model.branches["cell"]
    expected = expected + linear(torch.stack(outputs).mean(0), branch.weight, branch.bias)
    assert len(outputs) == 7
    torch.testing.assert_close(model(sequence), expected)


class Merged(nn.Module):
    """Merges time into the batch and averages or keeps the steps at its end, as lab code does."""

    def __init__(self, steps, end="mean"):
        super().__init__()
        self.steps, self.end = steps, end
        self.block, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, frames):
        x = self.block(frames.flatten(0, 1))
        logits = self.head(x.mean((2, 3)))
        each = logits.unflatten(0, (self.steps, -1))
        return {"mean": each.mean(0), "steps": each, "merged": logits}[self.end]


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("end", ["mean", "steps", "merged"])
def test_time_that_is_merged_into_the_batch_is_read_as_if_it_led(end, batch):
    frames = torch.rand(4, batch, 2, 5, 5)
    net = Merged(4, end)
    model = sbp_torch.Shortcut(net, ["block"], 5, time_axis="merged", time_steps=4, sample=frames)
    model.set_coefficient(0.5)
    branch = model.branches["block"]
    each = linear(net.block(frames.flatten(0, 1)).mean((2, 3)), branch.weight, branch.bias)
    if end != "merged" or batch == 1:
        each = each.unflatten(0, (4, batch))
    expected = net(frames) + 0.5 * (each.mean(0) if end == "mean" else each.reshape(net(frames).shape))
    torch.testing.assert_close(model(frames), expected)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(frames), model(frames))


def test_merged_time_that_does_not_divide_says_so_and_the_error_of_another_layout_offers_it():
    frames = torch.rand(4, 3, 2, 5, 5)
    with pytest.raises(ValueError, match=r"gave shape \(12, 4, 5, 5\).*pass time_axis='merged', time_steps=4"):
        sbp_torch.Shortcut(Merged(4), ["block"], 5, time_axis=0, sample=frames)
    with pytest.raises(ValueError, match="time_steps=5 asks"):
        sbp_torch.Shortcut(Merged(4), ["block"], 5, time_axis="merged", time_steps=5, sample=frames)
    with pytest.raises(ValueError, match="time_steps must be given with time_axis='merged'"):
        sbp_torch.Shortcut(Merged(4), ["block"], 5, time_axis="merged", sample=frames)


@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("per_step", [False, True])
def test_as_many_samples_as_steps_are_not_mixed(time_axis, per_step):
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.Linear(4, 6), nn.Linear(6, 5)

        def forward(self, x):
            logits = self.head(self.block(x))
            return logits if per_step else logits.mean(time_axis)

    x = torch.rand(3, 3, 4)
    model = sbp_torch.Shortcut(Sequence(), ["block"], 5, time_axis=time_axis, sample=x)
    x = x.requires_grad_()
    sample = model(x).select(1 - time_axis, 0) if per_step else model(x)[0]
    (gradient,) = torch.autograd.grad(sample.sum(), x)
    others = gradient.select(1 - time_axis, 1)
    assert torch.equal(others, torch.zeros_like(others))  # one sample's logits know nothing of another's input
    with pytest.raises(ValueError, match="time_axis must be given"):
        sbp_torch.Shortcut(Sequence(), ["block"], 5, sample=x.detach())


def test_channels_may_be_any_axis_after_batch_and_time():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.Identity(), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.block(x).mean((1, 3)))

    x = torch.rand(3, 7, 4, 2)
    model = sbp_torch.Shortcut(Odd(), ["block"], 5, time_axis=None, channels=2, sample=x)
    branch = model.branches["block"]
    expected = model.main(x) + linear(x.mean((1, 3)), branch.weight, branch.bias)
    torch.testing.assert_close(model(x), expected)


FRAMES = ResNetSpec(depths=(1,), widths=(3,), in_channels=2, num_classes=5, time_steps=4)


def test_event_frames_of_a_data_loader_are_refused_or_read_as_they_are_said_to_lie():
    net = sbp_torch.ResNet(FRAMES).eval()
    frames = torch.rand(4, 3, 2, 8, 8)
    batch_first = frames.transpose(0, 1)
    with pytest.raises(ValueError, match=r"with time_steps=4 steps, got shape \(3, 4, .*pass time_axis=1"):
        net(batch_first)
    torch.testing.assert_close(net(batch_first, time_axis=1), net(frames))
    model = sbp_torch.Shortcut(net, ["stem"], 5)
    torch.testing.assert_close(model(batch_first, time_axis=1), model(frames))
    with pytest.raises(ValueError, match="do not tell where time is"):
        net(torch.rand(4, 4, 2, 8, 8))
    with pytest.raises(ValueError, match="time_axis must be None for still images"):
        net(torch.rand(4, 2, 8, 8), time_axis=0)
    assert net(torch.rand(7, 3, 2, 8, 8), time_axis=0).shape == (3, 5)
