"""PyTorch networks that others published, random weights: a Shortcut round each is what hooks of one's own compute.

``make others`` runs it and prints the table. By hand: plain hooks that keep what two modules gave, a mean over what is
not batch and channels, a linear layer, the sum; in float64 wherever the network can.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import sbp_torch

pytest.importorskip("torchvision", reason="torchvision is not installed: run `make others`")

CLASSES, BATCH, STEPS, COEFFICIENT = 10, 2, 3, 0.3


@dataclass(frozen=True)
class Published:
    """A published network, where to tap it, and how its tapped outputs and logits lie."""

    make: Callable[[], nn.Module]
    taps: tuple[str, str]
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    pool: Callable[[list[Any]], torch.Tensor]  # by hand: from a tap's calls to (batch, channels)
    logits: Callable[[Any], torch.Tensor] = lambda output: output
    options: dict[str, Any] = field(default_factory=lambda: {"time_axis": None})
    before_each: Callable[[nn.Module], None] = lambda net: None
    dtype: torch.dtype = torch.float64


def images(size, steps=()):
    return lambda: ((torch.rand(*steps, BATCH, 3, size, size, dtype=torch.float64),), {})


def over_space(calls):
    (x,) = calls
    return x.mean((2, 3))


def over_tokens(calls):
    (x,) = calls
    return x.mean(tuple(range(1, x.ndim - 1)))


def over_time_and_space(calls):
    (x,) = calls
    return x.mean((0, *range(3, x.ndim)))


def first(calls):
    return [call[0] if isinstance(call, tuple) else call for call in calls]


def torchvision_net(name, **options):
    def make():
        import torchvision

        return getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **options)

    return make


def torchvision_class(name, **options):
    def make():
        import torchvision

        return getattr(torchvision.models, name)(num_classes=CLASSES, **options)

    return make


def timm_net(name, **options):
    def make():
        import timm

        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)

    return make


def transformers_net(name, config, **options):
    def make():
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(num_labels=CLASSES, **options))

    return make


TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def sentences():
    tokens = torch.randint(0, 50, (BATCH, 7))
    mask = torch.ones_like(tokens)
    mask[0, 5:] = 0
    return (), {"input_ids": tokens, "attention_mask": mask}


def lora():
    import peft

    vit = transformers_net("ViTForImageClassification", "ViTConfig", image_size=32, patch_size=8, **TRANSFORMER)()
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(vit, config)


def spikingjelly_net(module, name, **options):
    def make():
        import importlib

        from spikingjelly.activation_based import functional as sj
        from spikingjelly.activation_based import neuron, surrogate

        found = getattr(importlib.import_module(f"spikingjelly.activation_based.model.{module}"), name)
        net = found(spiking_neuron=neuron.IFNode, surrogate_function=surrogate.ATan(), detach_reset=True, **options)
        sj.set_step_mode(net, "m")
        return net

    return make


def reset_spikingjelly(net):
    from spikingjelly.activation_based import functional as sj

    sj.reset_net(net)


class Loop(nn.Module):
    """How snnTorch's tutorials run their networks: a loop over the steps, each neuron given its potential back."""

    def __init__(self):
        super().__init__()
        import snntorch

        self.conv1, self.lif1 = nn.Conv2d(3, 6, 5), snntorch.Leaky(beta=0.9, threshold=0.3)
        self.conv2, self.lif2 = nn.Conv2d(6, 8, 5), snntorch.Leaky(beta=0.9, threshold=0.1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8 * 25, CLASSES)

    def forward(self, x):
        first = second = x.new_zeros(())
        logits = []
        for _ in range(STEPS):
            spikes, first = self.lif1(self.pool(self.conv1(x)), first)
            spikes, second = self.lif2(self.pool(self.conv2(spikes)), second)
            logits.append(self.head(spikes.flatten(1)))
        return torch.stack(logits).mean(0)


def over_calls_and_space(calls):
    assert len(calls) == STEPS
    return torch.stack(first(calls)).mean((0, 3, 4))


STEPPED = {"time_axis": 0}
SEQUENCE = {"time_axis": None, "channels": "last"}
PARTS = SEQUENCE | {"output": "logits"}
SJ_RESNET = {"num_classes": CLASSES}

NETS = {
    "torchvision ResNet-18": Published(torchvision_net("resnet18"), ("layer1.0", "layer3"), images(48), over_space),
    "torchvision GoogLeNet, auxiliary heads": Published(
        torchvision_net("googlenet", aux_logits=True, init_weights=False),
        ("inception3b", "inception4d"),
        images(64),
        over_space,
        lambda output: output[0] if isinstance(output, tuple) else output,
        {"time_axis": None, "output": "logits"},
    ),
    "torchvision Inception v3, auxiliary head": Published(
        torchvision_net("inception_v3", aux_logits=True, init_weights=False),
        ("Mixed_5d", "Mixed_6b"),
        images(299),  # the auxiliary head takes no less
        over_space,
        lambda output: output[0] if isinstance(output, tuple) else output,
        {"time_axis": None, "output": "logits"},
    ),
    "torchvision DenseNet": Published(
        torchvision_class("DenseNet", growth_rate=8, block_config=(2, 2, 2), num_init_features=16),
        ("features.denseblock1.denselayer2", "features.transition2"),
        images(48),
        over_space,
    ),
    "torchvision MobileNet v3": Published(
        torchvision_net("mobilenet_v3_small"), ("features.3", "features.8"), images(48), over_space
    ),
    "torchvision ViT": Published(
        torchvision_class(
            "VisionTransformer", image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32
        ),
        ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"),
        images(32),
        over_tokens,
        options=SEQUENCE,
    ),
    "torchvision Swin": Published(
        torchvision_class(
            "SwinTransformer",
            patch_size=[4, 4],
            embed_dim=8,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=[4, 4],
        ),
        ("features.1", "features.3"),
        images(32),
        over_tokens,
        options=SEQUENCE,
    ),
    "timm ConvNeXt": Published(timm_net("convnext_atto"), ("stages.0", "stages.2"), images(64), over_space),
    "timm ViT": Published(
        timm_net("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3),
        ("blocks.0", "blocks.1.mlp"),
        images(32),
        over_tokens,
        options=SEQUENCE,
    ),
    "timm EfficientNet": Published(timm_net("efficientnet_b0"), ("blocks.1", "blocks.3"), images(48), over_space),
    "transformers ViT": Published(
        transformers_net("ViTForImageClassification", "ViTConfig", image_size=32, patch_size=8, **TRANSFORMER),
        ("vit.layers.0", "vit.layers.1"),
        images(32),
        lambda calls: over_tokens(first(calls)),
        lambda output: output.logits,
        PARTS,
    ),
    "transformers BERT, padding mask": Published(
        transformers_net("BertForSequenceClassification", "BertConfig", vocab_size=50, **TRANSFORMER),
        ("bert.encoder.layer.0", "bert.encoder.layer.1"),
        sentences,
        lambda calls: over_tokens(first(calls)),
        lambda output: output.logits,
        PARTS,
    ),
    "transformers ResNet": Published(
        transformers_net(
            "ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1]
        ),
        ("resnet.encoder.stages.0", "resnet.encoder.stages.1"),
        images(32),
        over_space,
        lambda output: output.logits,
        {"time_axis": None, "output": "logits"},
    ),
    "PEFT LoRA of transformers ViT": Published(
        lora,
        ("base_model.model.vit.layers.0", "base_model.model.vit.layers.1.attention.q_proj"),
        images(32),
        lambda calls: over_tokens(first(calls)),
        lambda output: output.logits,
        PARTS,
    ),
    "SpikingJelly spiking ResNet-18": Published(
        spikingjelly_net("spiking_resnet", "spiking_resnet18", **SJ_RESNET),
        ("layer1", "layer3"),
        images(48, (STEPS,)),
        over_time_and_space,
        lambda output: output.mean(0),
        STEPPED,
        reset_spikingjelly,
    ),
    "SpikingJelly SEW ResNet-18": Published(
        spikingjelly_net("sew_resnet", "sew_resnet18", cnf="ADD", **SJ_RESNET),
        ("layer1", "layer2.1"),
        images(48, (STEPS,)),
        over_time_and_space,
        lambda output: output.mean(0),
        STEPPED,
        reset_spikingjelly,
    ),
    "snnTorch conv net in a loop": Published(
        Loop,
        ("lif1", "lif2"),
        images(32),
        over_calls_and_space,
        options={"time_axis": "calls", "select": 0},
        dtype=torch.float32,  # its spikes are float32 whatever goes in
    ),
}


def cell(mode):
    return [pytest.param(net, marks=pytest.mark.matrix(name, "PyTorch", mode), id=name) for name, net in NETS.items()]


def built(published):
    """Return the network in float64, its inputs, and a Shortcut round it with branches made from a sample."""
    torch.manual_seed(0)
    net = published.make().to(published.dtype)
    arguments, keywords = published.inputs()
    arguments = tuple(argument.to(published.dtype) for argument in arguments)
    sample = dict(keywords) if keywords else arguments
    published.before_each(net)
    model = sbp_torch.Shortcut(net, published.taps, CLASSES, sample=sample, **published.options)
    model.set_coefficient(COEFFICIENT)
    return net, arguments, keywords, model


def branches_of(model):
    return [model.branches[tap.replace(".", "/")] for tap in model.spec.taps]


def loss_by_hand(published, net, arguments, keywords, linears, labels):
    seen = {tap: [] for tap in published.taps}
    handles = [
        net.get_submodule(tap).register_forward_hook(lambda _, inputs, output, tap=tap: seen[tap].append(output))
        for tap in published.taps
    ]
    published.before_each(net)
    torch.manual_seed(7)  # dropout
    logits = published.logits(net(*arguments, **keywords))
    for handle in handles:
        handle.remove()
    for tap, (weight, bias) in zip(published.taps, linears, strict=True):
        logits = logits + COEFFICIENT * functional.linear(published.pool(seen[tap]), weight, bias)
    return functional.cross_entropy(logits, labels)


@pytest.mark.parametrize("published", cell("training = by hand"))
def test_a_training_step_is_what_hooks_of_ones_own_compute(published):
    net, arguments, keywords, model = built(published)
    labels = torch.arange(BATCH)
    close = {"rtol": 1e-8, "atol": 1e-10} if published.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
    twin = published.make().to(published.dtype)
    twin.load_state_dict(net.state_dict())
    linears = [
        (b.weight.detach().clone().requires_grad_(), b.bias.detach().clone().requires_grad_())
        for b in branches_of(model)
    ]
    expected = loss_by_hand(published, twin.train(), arguments, keywords, linears, labels)
    expected.backward()

    published.before_each(net)
    torch.manual_seed(7)
    loss = functional.cross_entropy(published.logits(model.train()(*arguments, **keywords)), labels)
    loss.backward()

    torch.testing.assert_close(loss, expected, **close)
    for (name, parameter), (_, wanted) in zip(net.named_parameters(), twin.named_parameters(), strict=True):
        if wanted.grad is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, wanted.grad, **close, msg=f"{name} differs")
    for branch, (weight, bias) in zip(branches_of(model), linears, strict=True):
        torch.testing.assert_close(branch.weight.grad, weight.grad, **close)
        torch.testing.assert_close(branch.bias.grad, bias.grad, **close)
    for (name, buffer), (_, wanted) in zip(net.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted, msg=f"{name} differs")


@pytest.mark.parametrize("published", cell("evaluation = bare"))
def test_evaluation_is_the_bare_networks(published):
    net, arguments, keywords, model = built(published)
    with torch.no_grad():
        published.before_each(net)
        torch.manual_seed(7)
        bare = published.logits(net.eval()(*arguments, **keywords))
        published.before_each(net)
        torch.manual_seed(7)
        wrapped = published.logits(model.eval()(*arguments, **keywords))
    assert torch.equal(wrapped, bare)


@pytest.mark.parametrize("published", cell("strip"))
def test_strip_gives_back_the_very_network_without_a_hook(published):
    net, _, _, model = built(published)
    assert model.strip() is net
    assert not any(
        module._forward_hooks or module._forward_pre_hooks
        for module in net.modules()
        if type(module).__module__.startswith("torch.nn")
    )


@pytest.mark.parametrize("published", cell("save and load"))
def test_a_saved_state_goes_into_a_new_wrapper(published):
    _, arguments, keywords, model = built(published)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = built(published)[3]
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1.0)
    again.load_state_dict(torch.load(file, weights_only=True))
    outputs = []
    for each in (model, again):
        published.before_each(each.main)
        torch.manual_seed(7)
        outputs.append(published.logits(each.train()(*arguments, **keywords)))
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("published", cell("export"))
def test_the_stripped_network_exports_as_the_bare_one(published):
    _, arguments, keywords, model = built(published)
    stripped = model.strip().eval()
    with torch.no_grad():
        program = torch.export.export(stripped, arguments, keywords)
        torch.testing.assert_close(
            published.logits(program.module()(*arguments, **keywords)),
            published.logits(stripped(*arguments, **keywords)),
        )


@pytest.mark.parametrize("held", ["in place", "as main"])
def test_lora_that_peft_puts_in_after_wrapping_is_read(held):
    import peft

    torch.manual_seed(0)
    net = NETS["transformers ViT"].make().double()
    tap = "vit.layers.1.attention.q_proj"
    (x,), _ = images(32)()
    model = sbp_torch.Shortcut(net, [tap], CLASSES, sample=x, **PARTS)
    before = model(x).logits
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(net, config).double()
    if held == "as main":
        model.main = adapted
    seen = []
    handle = net.get_submodule(tap).register_forward_hook(lambda _, inputs, output: seen.append(output))
    expected = adapted(x).logits
    handle.remove()
    (branch,) = branches_of(model)
    expected = expected + functional.linear(over_tokens(seen), branch.weight, branch.bias)
    found = model(x).logits
    torch.testing.assert_close(found, expected)
    assert (found - before).abs().max() > 1e-3
    model.strip()
    assert not net.get_submodule(tap)._forward_hooks


def test_a_loss_that_transformers_computes_is_refused_and_its_evaluation_is_not():
    net = NETS["transformers ViT"].make()
    x, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    model = sbp_torch.Shortcut(net, ["vit.layers.0"], CLASSES, sample=x, **PARTS)
    with pytest.raises(RuntimeError, match="Leave the labels out of the call"):
        model(x, labels=labels)
    assert model.eval()(x, labels=labels).loss.ndim == 0


@pytest.mark.parametrize(
    ("name", "arguments", "taps"),
    [
        ("resnet18", {}, ("act1", "layer1", "layer2", "layer3")),
        ("mobilenetv3_small_100", {}, ("bn1", "blocks.0", "blocks.1", "blocks.3")),
        ("efficientnet_b0", {}, ("blocks.0", "blocks.1", "blocks.2", "blocks.4")),
        ("convnext_atto", {}, ("stages.0", "stages.1", "stages.2")),
        ("regnety_002", {}, ("stem", "s1", "s2", "s3")),
        ("vit_tiny_patch16_224", {"channels": "last"}, tuple(f"blocks.{index}" for index in range(11))),
        ("swin_tiny_patch4_window7_224", {"channels": "last"}, ("layers.0", "layers.1", "layers.2")),
    ],
)
def test_a_network_of_timm_is_tapped_by_the_stages_that_it_states(name, arguments, taps):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = timm.create_model(name, num_classes=5)
    images = torch.randn(2, 3, 224, 224)
    model = sbp_torch.Shortcut(net, "stages", 5, time_axis=None, sample=images, **arguments)
    assert model.spec.taps == taps
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.branches.parameters())
    assert model.strip() is net
