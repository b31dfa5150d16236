"""State: none is left over between batches or shared by models, and one of another batch is never guessed at."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sbp_torch
from sbp_core import Evolutionary, LIFSpec, ResNetSpec

SEED = 20261124
SPEC = ResNetSpec(depths=(1, 1), widths=(3, 4), in_channels=2, num_classes=5, time_steps=3)
GENERATOR = torch.Generator().manual_seed(SEED)
IMAGES = torch.rand(3, 2, 8, 8, generator=GENERATOR)
OTHERS = torch.rand(5, 2, 8, 8, generator=GENERATOR)
LABELS = torch.tensor([0, 4, 2])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(SEED)


def make(spec=SPEC):
    return sbp_torch.Shortcut(sbp_torch.ResNet(spec), ["stem", "layer1"], 5)


def test_a_pass_leaves_no_attribute_tensor_or_object_on_the_model():
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # its statistics are to move, and are no state of the sequence

    def held():
        found = {}
        for name, module in model.named_modules():
            for key, value in vars(module).items():
                found[name, key] = repr(sorted(value) if isinstance(value, dict) else value)
        return found, {name: tensor.clone() for name, tensor in model.state_dict().items()}

    attributes, tensors = held()
    model(IMAGES)
    after, tensors_after = held()
    assert after == attributes
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in tensors_after.items())
    assert model._recorder._outputs == {}


@pytest.mark.parametrize(
    "neuron",
    [LIFSpec(), LIFSpec(output_delay=1), LIFSpec(synaptic_decay=0.5), LIFSpec.parametric(), LIFSpec.complementary()],
)
def test_what_ran_before_changes_nothing_not_even_another_batch_size(neuron):
    model = make(SPEC.replace(neuron=neuron)).eval()
    fresh = model(IMAGES)
    model(OTHERS)
    assert torch.equal(model(IMAGES), fresh)


def test_two_backward_passes_need_no_reset_between_them():
    model = make()
    for images in (IMAGES, OTHERS[:3], IMAGES):
        cross_entropy(model(images), LABELS).backward()  # "backward a second time" where a state is left over


def test_two_models_that_take_turns_are_as_each_alone():
    def train(models, turns):
        optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
        for _ in range(2):
            for index in turns:
                optimizers[index].zero_grad()
                cross_entropy(models[index]((IMAGES, OTHERS[:3])[index]), LABELS).backward()
                optimizers[index].step()

    first, second = make(), make()
    alone = [copy.deepcopy(first), copy.deepcopy(second)]
    train([first, second], (0, 1))
    train(alone, (0,))
    train(alone, (1,))
    for model, expected in zip((first, second), alone, strict=True):
        for name, tensor in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name


def test_one_spec_may_make_many_networks_that_share_no_tensor():
    first, second = make(), make()
    pointers = [{tensor.data_ptr() for tensor in model.state_dict().values()} for model in (first, second)]
    assert not pointers[0] & pointers[1]


def test_an_explicit_state_of_another_batch_is_an_error_that_says_so():
    neuron = sbp_torch.LIF()
    _, state = neuron(torch.rand(2, 3, 4), return_state=True)
    with pytest.raises(ValueError, match=r"state.*\(3, 4\)"):
        neuron(torch.rand(2, 5, 4), state)
    assert neuron(torch.rand(2, 5, 4)).shape == (2, 5, 4)  # without a state it starts afresh


@pytest.mark.parametrize("split", [1, 2, 3])
def test_a_network_streamed_over_chunks_with_its_states_is_the_network_on_all_of_it(split):
    net = sbp_torch.ResNet(SPEC.replace(neuron=LIFSpec(synaptic_decay=0.5)), per_step=True).eval()
    for module in net.modules():  # statistics under which deep layers fire
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.5)
    frames = torch.rand(4, 3, 2, 8, 8)
    first, states = sbp_torch.stream(net, frames[:split], time_axis=0)
    second, states = sbp_torch.stream(net, frames[split:], states, time_axis=0)
    expected = net(frames, time_axis=0)
    torch.testing.assert_close(torch.cat((first, second)), expected, rtol=1e-5, atol=1e-6)
    assert (net(frames[split:], time_axis=0) - second).abs().max() > 1e-3  # a fresh start is something else
    assert set(states) == {name for name, module in net.named_modules() if isinstance(module, sbp_torch.LIF)}
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())


def test_streaming_through_a_shortcut_and_back_propagating_within_a_chunk():
    model = sbp_torch.Shortcut(sbp_torch.ResNet(SPEC), ["stem.neuron", "layer1"], 5)  # a tap on a neuron itself
    frames = torch.rand(4, 3, 2, 8, 8)
    states = None
    for chunk in (frames[:2], frames[2:]):
        logits, states = sbp_torch.stream(model, chunk, states, time_axis=0)
        states = {name: detached(state) for name, state in states.items()}
        cross_entropy(logits, LABELS).backward()
    assert model.main.stem.conv.weight.grad.abs().max() > 0


def detached(state):
    return type(state)(*(None if part is None else part.detach() for part in state))


def test_what_cannot_be_streamed_says_why():
    net = sbp_torch.ResNet(SPEC)
    frames = torch.rand(2, 3, 2, 8, 8)
    _, states = sbp_torch.stream(net, frames, time_axis=0)
    with pytest.raises(ValueError, match=r"state.*\(3, 3, 8, 8\)|state.*\(5, 3, 8, 8\)"):
        sbp_torch.stream(net, torch.rand(2, 5, 2, 8, 8), states, time_axis=0)
    with pytest.raises(ValueError, match="states must be those of the network's neurons"):
        sbp_torch.stream(net, frames, {"stem.neuron": states["stem.neuron"]})
    with pytest.raises(ValueError, match="net must hold sbp_torch neurons, got a Linear without one"):
        sbp_torch.stream(nn.Linear(2, 2), frames)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif = sbp_torch.LIF()

        def forward(self, x):
            return self.lif(self.lif(x))

    twice = Twice()
    with pytest.raises(RuntimeError, match="neuron 'lif' ran twice"):
        sbp_torch.stream(twice, frames)
    assert not twice.lif._forward_pre_hooks


def test_state_is_not_in_the_weights_unless_asked():
    model = make()
    names = set(model.state_dict())
    model(IMAGES)
    assert set(model.state_dict()) == names
    assert not [name for name in names if "potential" in name or "state" in name]
    _, states = sbp_torch.stream(model.main, torch.rand(2, 3, 2, 8, 8), time_axis=0)
    file = io.BytesIO()
    torch.save({"weights": model.state_dict(), "states": {name: tuple(s) for name, s in states.items()}}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded["states"]["stem.neuron"][0], states["stem.neuron"].potential)


def test_the_branches_and_the_coefficient_are_saved_beside_the_network():
    model = make()
    names = {f"main.{name}" for name in sbp_torch.ResNet(SPEC).state_dict()}
    own = {"coefficient", *(f"branches.{tap}.{part}" for tap in ("stem", "layer1") for part in ("weight", "bias"))}
    assert set(model.state_dict()) == names | own
    sbp_torch.ResNet(SPEC).load_state_dict(model.main.state_dict(), strict=True)


def test_an_interrupted_step_leaves_no_recording_behind():
    model = make()

    def interrupt(module, inputs, output):
        raise KeyboardInterrupt

    handle = model.main.head.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(IMAGES)
    handle.remove()
    assert not model._recorder.recording
    scheduler = sbp_torch.CoefficientScheduler(model, Evolutionary(initial=1.0, total_steps=2))
    scheduler.step()
    assert torch.equal(model(IMAGES).detach().isfinite(), torch.ones(3, 5, dtype=torch.bool))
