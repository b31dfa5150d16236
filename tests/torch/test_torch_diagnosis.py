"""PyTorch's diagnosis: the oracle's figures, of peers' neurons too, and nothing left behind on the model."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sbp_torch
from sbp_core import Following, presets
from tests import signals


def batches():
    return [(torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in signals.batches()]


@pytest.fixture
def net():
    found = sbp_torch.Network(signals.SPEC)
    sbp_torch.import_weights(found, signals.WEIGHTS)
    return found


def test_figures_are_the_oracles(net):
    signals.assert_same(sbp_torch.diagnose(net, batches(), noise=0.2, seed=5))
    signals.assert_same_descent(sbp_torch.diagnose(net, batches(), noise=0.2, seed=5, slopes=3))


def test_neurons_are_seen_to_start_from_what_they_followed():
    net = sbp_torch.Network(signals.FOLLOWS)
    sbp_torch.import_weights(net, signals.FOLLOWED)
    signals.assert_same(sbp_torch.diagnose(net, batches(), noise=0.2, seed=5), signals.followed())
    assert net.stem.neuron.running_potential == np.float32(0.3)


def test_nothing_is_left_on_the_model(net):
    net.eval()
    before = copy.deepcopy(net.state_dict())
    sbp_torch.diagnose(net, batches())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not net.training
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_a_shortcut_is_measured_with_its_branches(net, combine):
    model = sbp_torch.Shortcut(net, ("layer1",), 4, combine=combine, sample=batches()[0][0])
    model.set_coefficient(50.0)
    found = sbp_torch.diagnose(model, batches())
    assert found.neurons[0].path == "main.stem.neuron"
    assert any(weights.path.startswith("branches.") for weights in found.weights)
    # the branch outweighs the rest: what lies behind its tap gets little
    norms = {neuron.path: neuron.norm for neuron in found.neurons}
    assert norms["main.layer1.0.neuron2"] > 10 * norms["main.layer2.0.neuron2"]


def test_dropout_does_not_draw(net):
    dropping = nn.Sequential(net, nn.Dropout(0.5))
    first, second = (sbp_torch.diagnose(dropping, batches()) for _ in range(2))
    assert str(first) == str(second)
    assert first.loss == sbp_torch.diagnose(net, batches()).loss


class Twice(nn.Module):
    """Two linear layers with a neuron each, over frames ``(time, batch, features)``."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second, self.head = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=1.0)
        self.one, self.two = make(), make()

    def forward(self, x):
        return self.head(self.two(self.second(self.one(self.first(x))))).mean(0)


class EachStep(Twice):
    """The same, called step by step, as snnTorch's tutorials do."""

    def forward(self, x):
        state, found = {}, []
        for now in x:
            now = self._fire("one", self.first(now), state)
            found.append(self.head(self._fire("two", self.second(now), state)))
        return torch.stack(found)

    def _fire(self, name, x, state):
        neuron = getattr(self, name)
        if hasattr(neuron, "mem"):
            spikes, state[name] = neuron(x, state.get(name, torch.zeros_like(x)))
            return spikes
        return neuron(x)


def frames():
    random = np.random.default_rng(4)
    return [(torch.from_numpy(random.normal(size=(3, 6, 8)).astype("float32")), torch.arange(6) % 3) for _ in range(3)]


@pytest.mark.parametrize("mode", ["m", "s"])
def test_spikingjellys_neurons_are_known(mode):
    peer = pytest.importorskip("spikingjelly.activation_based.neuron", reason="SpikingJelly is not installed")
    ours = Twice(lambda: sbp_torch.LIF(presets.spikingjelly_lif(tau=3.0)))
    theirs = (Twice if mode == "m" else EachStep)(lambda: peer.LIFNode(tau=3.0, step_mode=mode))
    # one that has run before remembers, and must not
    theirs(frames()[0][0])
    signals.assert_same(sbp_torch.diagnose(theirs, frames()), sbp_torch.diagnose(ours, frames()))


def test_snntorchs_neurons_are_known():
    peer = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    ours = Twice(lambda: sbp_torch.LIF(presets.snntorch_leaky(beta=0.7)))
    theirs = EachStep(lambda: peer.Leaky(beta=0.7))
    signals.assert_same(sbp_torch.diagnose(theirs, frames()), sbp_torch.diagnose(ours, frames()))


def test_mistakes_are_named(net):
    with pytest.raises(TypeError, match="model must be a torch module, got 3"):
        sbp_torch.diagnose(3, batches())
    with pytest.raises(ValueError, match="model must have spiking neurons"):
        sbp_torch.diagnose(nn.Sequential(nn.Flatten(), nn.Linear(72, 4)), batches())
    with pytest.raises(ValueError, match="batches must be two or more"):
        sbp_torch.diagnose(net, [])


def trained(watched, folder):
    """A few steps of a network with dropout, and what was seen."""
    torch.manual_seed(0)
    net = sbp_torch.Network(signals.SPEC)
    model = nn.Sequential(net, nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    watch = sbp_torch.watch(model, batches(), every=2, folder=folder, noise=0.2, seed=5) if watched else None
    looks = []
    for images, labels in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels.long()).backward()
        optimizer.step()
        looks += [watch.step()] if watched else []
    return model, looks


def test_a_training_that_is_watched_ends_in_the_same_bits(tmp_path):
    (plain, _), (watched, looks) = trained(False, None), trained(True, tmp_path)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name
    assert [look and look.step for look in looks] == [1, 2, None]
    assert "agreement/0.head" in looks[0].scalars()
    watch = sbp_torch.watch(watched, batches(), noise=0.2, seed=5)
    signals.assert_same(watch.step().found, sbp_torch.diagnose(watched, batches(), noise=0.2, seed=5))
    with pytest.raises(TypeError, match="model must be a torch module"):
        sbp_torch.watch(3, batches())


@pytest.mark.parametrize("measure", ["agreement", "share"])
def test_a_coefficient_follows_the_main_networks_gradient_and_goes_on(net, measure):
    model = sbp_torch.Shortcut(net, ("layer1",), 4, sample=batches()[0][0])
    schedule = Following(initial=0.5, target=0.9, every=2, total_steps=8, measure=measure)
    # gradients of one batch agree
    places = (0, 0, 1)
    look_at = [batches()[place] for place in places]
    seen = getattr(signals.diagnosed([signals.batches()[place] for place in places]), f"early_{measure}")
    assert 0.1 < seen < 0.9
    scheduler = sbp_torch.CoefficientScheduler(model, schedule, batches=look_at)
    assert scheduler.last_value == 0.5 * 7 / 8
    # the weights do not move: every look sees the oracle's, without the branches
    scheduler.step()
    assert scheduler.schedule.signal == pytest.approx(seen, abs=1e-6)
    assert scheduler.last_value == pytest.approx(0.5 * 6 / 8 * (1 - seen / 0.9), abs=1e-6)
    again = sbp_torch.CoefficientScheduler(model, schedule, batches=look_at)
    again.load_state_dict(scheduler.state_dict())
    if measure == "agreement":
        # what was written before there was another
        state = scheduler.state_dict()
        del state["schedule"]["measure"]
        again.load_state_dict(state)
    else:
        other = sbp_torch.CoefficientScheduler(model, schedule.replace(measure="agreement"), batches=look_at)
        with pytest.raises(ValueError, match="measure='share' and not 'agreement'"):
            other.load_state_dict(scheduler.state_dict())
    for _ in range(3):
        scheduler.step()
        again.step()
        assert again.last_value == scheduler.last_value == pytest.approx(model.coefficient.item(), rel=1e-6)
    with pytest.raises(ValueError, match="batches must be given"):
        sbp_torch.CoefficientScheduler(model, schedule)
