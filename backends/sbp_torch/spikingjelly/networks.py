"""Each architecture of SpikingJelly's: its sizes, read from modules, and where our layers are in it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from sbp_core.specs.networks import ResNetSpec
from sbp_core.specs.networks.ms_resnet import MSResNetSpec
from sbp_core.specs.networks.qkformer import QKFormerSpec
from sbp_core.specs.networks.sew_resnet import SEWResNetSpec
from sbp_core.specs.networks.spikformer import SpikformerSpec
from sbp_core.specs.networks.vgg import VGGSpec
from sbp_torch.spikingjelly.modules import (
    Found,
    Modules,
    Place,
    alike,
    at,
    children,
    convolution,
    linear,
    of,
    pair,
    placed,
    under,
)
from sbp_torch.spikingjelly.nodes import NODES, neuron_spec


def _resnet(net: nn.Module, time_steps: int, size: object) -> Found:
    fields = _residual_fields(net, time_steps, "conv1", "bn1", "sn1", "fc")
    return Found(ResNetSpec(**fields), _residual_places(net))


def _sew_resnet(net: nn.Module, time_steps: int, size: object) -> Found:
    fields = _residual_fields(net, time_steps, "conv1", "bn1", "sn1", "fc")
    join = alike(net, [path for path, _ in _blocks(net)], "cnf")
    return Found(SEWResNetSpec(**(fields | {"join": str(join).lower()})), _residual_places(net))


def _ms_resnet(net: nn.Module, time_steps: int, size: object) -> Found:
    fields = _residual_fields(net, time_steps, "stem.0", "stem.1", "head_lif", "head")
    channels = convolution(net, "stem.0").out_channels
    pools = [path for path, block in _blocks(net) if hasattr(block, "max_pool")]
    first = "layer1.0.max_pool" if "layer1.0" in pools else "layer1.0.conv1"
    stride = of(at(net, first), "stride", first)
    if pools:
        fields |= {"downsample": "max", "scale": 1.0, "residual_scale": 1.0}
    spec = MSResNetSpec(
        stem_channels=None if channels == fields["widths"][0] else channels,
        first_stage_stride=stride[0] if isinstance(stride, tuple) else stride,
        **fields,
    )
    table = {"stem.conv": "stem.0", "stem.bn": "stem.1", "last.neuron": "head_lif", "pool": "avgpool", "head": "head"}
    for path, _ in _blocks(net):
        table |= under(path, path, _MS_BLOCK)
    return Found(spec, placed(table))


def _residual_fields(net: nn.Module, time_steps: int, conv: str, norm: str, neuron: str, head: str) -> dict[str, Any]:
    stages: dict[str, list[str]] = {}
    for path, block in _blocks(net):
        if hasattr(block, "conv3"):
            raise ValueError(f"{path} is a {type(block).__name__}, and only blocks of two convolutions are supported")
        stages.setdefault(path.partition(".")[0], []).append(path)
    stem, bn = convolution(net, conv), at(net, norm)
    return {
        "depths": tuple(len(blocks) for blocks in stages.values()),
        "widths": tuple(convolution(net, f"{blocks[0]}.conv1").out_channels for blocks in stages.values()),
        "stem": "imagenet" if stem.kernel_size[0] == 7 else "cifar",
        "neuron": neuron_spec(at(net, neuron), neuron),
        "batch_norm_epsilon": of(bn, "eps", norm),
        "batch_norm_momentum": of(bn, "momentum", norm),
        "num_classes": linear(net, head).out_features,
        "in_channels": stem.in_channels,
        "time_steps": time_steps,
    }


def _blocks(net: nn.Module) -> Modules:
    stages = [f"layer{index}" for index in range(1, 5) if getattr(net, f"layer{index}", None) is not None]
    return [(f"{stage}.{name}", block) for stage in stages for name, block in at(net, stage).named_children()]


def _residual_places(net: nn.Module) -> dict[str, Place]:
    table = {"stem.conv": "conv1", "stem.bn": "bn1", "stem.neuron": "sn1", "stem.pool": "maxpool"}
    table |= {"pool": "avgpool", "head": "fc"}
    for path, _ in _blocks(net):
        table |= under(path, path, _BLOCK)
    return placed(table)


def _spiking_vgg(net: nn.Module, time_steps: int, size: tuple[int, int] | None) -> Found:
    pool = pair(of(at(net, "avgpool"), "output_size", "avgpool"))
    features, head = children(net, "features"), children(net, "classifier")
    found = _vgg(features, head, time_steps, size, None if pool == (1, 1) else pool)
    return Found(found.spec, found.places | {"flat": Place("avgpool")})


def _plif_net(net: nn.Module, time_steps: int, size: tuple[int, int] | None) -> Found:
    modules = children(net, "conv_fc")
    flat = next((index for index, (_, module) in enumerate(modules) if type(module).__name__ == "Flatten"), 0)
    channels = [module.out_channels for _, module in modules[:flat] if isinstance(module, nn.Conv2d)]
    inputs = [module.in_features for _, module in modules[flat:] if isinstance(module, nn.Linear)]
    if not (channels and inputs):
        raise ValueError("conv_fc must have convolutions, a Flatten and linear layers")
    side = math.isqrt(inputs[0] // channels[-1])
    found = _vgg(modules[:flat], modules[flat + 1 :], time_steps, size, (side, side))
    return Found(found.spec, found.places | {"flat": Place(modules[flat][0])})


def _vgg(features: Modules, head: Modules, time_steps: int, size: tuple[int, int] | None, flat: Any) -> Found:
    _spelt(features, r"((CBN)+P)+", "convolution, batch norm and neuron, and a max pool behind each stage")
    voted = _spelt(head, r"D?(LND?)*L(NV)?", "linear layers, a neuron behind each but the last").endswith("V")
    table, stages = _stages(features)
    units = [module.out_features for _, module in head if isinstance(module, nn.Linear)]
    rates = [of(module, "p", path) for path, module in head if _letter(module) == "D"]
    outputs = units.pop()
    voters = of(head[-1][1], "voting_size", head[-1][0]) if voted else None
    first: Any = features[0][1]
    halved = 2 ** len(stages)
    spec = VGGSpec(
        stages=stages,
        hidden=tuple(units),
        size=None if flat is None else size or (flat[0] * halved, flat[1] * halved),
        dropout=max(rates, default=0.0),
        drop_features=_letter(head[0][1]) == "D" and rates[0] > 0.0,
        bias=first.bias is not None,
        voters=voters,
        neuron=neuron_spec(features[2][1], features[2][0]),
        num_classes=outputs // (voters or 1),
        in_channels=first.in_channels,
        time_steps=time_steps,
    )
    return Found(spec, placed(table | _head(head, len(units), voted=voted)))


def _stages(features: Modules) -> tuple[dict[str, str], tuple[tuple[int, ...], ...]]:
    table: dict[str, str] = {}
    stages: list[list[int]] = [[]]
    for path, module in features:
        letter, stage = _letter(module), f"stage{len(stages)}"
        if isinstance(module, nn.Conv2d):
            stages[-1].append(module.out_channels)
        name = {"C": "conv", "B": "bn", "N": "neuron"}.get(letter)
        table[f"{stage}.{name}{len(stages[-1])}" if name else f"{stage}.pool"] = path
        if letter == "P":
            stages.append([])
    return table, tuple(tuple(stage) for stage in stages[:-1])


def _head(head: Modules, hidden: int, *, voted: bool) -> dict[str, str]:
    table, index = {}, 0
    for path, module in head:
        letter = _letter(module)
        index += letter == "L"
        inside = f"hidden{index}." if index <= hidden else "head."
        if letter == "D":
            table["drop" if index == 0 else f"{inside}drop"] = path
        elif letter == "L" and index > hidden and not voted:
            table["head"] = path
        else:
            table[inside + {"L": "fc", "N": "neuron", "V": "vote"}[letter]] = path
    return table


def _spelt(modules: Modules, wanted: str, words: str) -> str:
    found = "".join(_letter(module) for _, module in modules)
    if not re.fullmatch(wanted, found):
        names = ", ".join(type(module).__name__ for _, module in modules)
        where = modules[0][0].partition(".")[0] if modules else "net"
        raise ValueError(f"{where} must have {words}; got {names}")
    return found


def _letter(module: nn.Module) -> str:
    name = type(module).__name__
    return "N" if name in NODES or name.endswith("Node") else _LETTERS.get(name, "?")


def _spikformer(net: nn.Module, time_steps: int, size: object) -> Found:
    stages, blocks = children(net, "patch_embed.stages"), children(net, "blocks")
    dim = convolution(net, f"{stages[-1][0]}.conv_bn.block.0").out_channels
    pools = hasattr(at(net, f"{stages[0][0]}.conv_bn.block"), "2")
    attentions = [f"{path}.attn" for path, _ in blocks]
    spec = SpikformerSpec(
        dim=dim,
        depth=len(blocks),
        heads=alike(net, attentions, "num_heads"),
        patch=16 if pools else 4,
        mlp_ratio=_ratio(dim, convolution(net, f"{blocks[0][0]}.mlp.fc1.0").out_channels),
        scale=alike(net, attentions, "scale"),
        neuron=neuron_spec(at(net, f"{stages[0][0]}.neuron"), f"{stages[0][0]}.neuron"),
        num_classes=linear(net, "head").out_features,
        in_channels=convolution(net, f"{stages[0][0]}.conv_bn.block.0").in_channels,
        time_steps=time_steps,
    )
    found = placed({"head": "head"} | under("patch_embed.position", "patch_embed.positional_encoding", _PATCH))
    for index, (path, _) in enumerate(stages, start=1):
        found |= placed(under(f"patch_embed.stage{index}", path, _PATCH))
    for index, (path, _) in enumerate(blocks, start=1):
        found |= _attention(f"block{index}", path) | placed(under(f"block{index}", path, _SPIKFORMER_MLP))
    return Found(spec, found)


def _qkformer(net: nn.Module, time_steps: int, size: object) -> Found:
    stages = [children(net, f"stage{index}") for index in (1, 2, 3)]
    attentions = [[f"{path}.attn" for path, _ in stage] for stage in stages]
    kind = alike(net, attentions[0] + attentions[1], "qka_type")
    if kind != "token":
        raise ValueError(f"{attentions[0][0]}: qka_type must be 'token', got {kind!r}")
    scale = alike(net, attentions[2], "scale")
    if scale != 0.125:
        raise ValueError(f"{attentions[2][0]}: scale must be 0.125, got {scale!r}")
    embed = "patch_embed1.conv1"
    dim = convolution(net, "patch_embed3.conv2").out_channels
    spec = QKFormerSpec(
        dim=dim,
        depths=tuple(len(stage) for stage in stages),
        heads=tuple(alike(net, stage, "num_heads") for stage in attentions),
        first_pool=True,
        bias=convolution(net, embed).bias is not None,
        mlp_ratio=_ratio(dim, convolution(net, f"{stages[2][0][0]}.mlp.fc1").out_channels),
        neuron=neuron_spec(at(net, "patch_embed1.lif1"), "patch_embed1.lif1"),
        num_classes=linear(net, "head").out_features,
        in_channels=convolution(net, embed).in_channels,
        time_steps=time_steps,
    )
    found = placed({"head": "head"} | under("stage1.embed", "patch_embed1", _FIRST_EMBEDDING))
    for index in (2, 3):
        found |= placed(under(f"stage{index}.embed", f"patch_embed{index}", _EMBEDDING))
    for index, stage in enumerate(stages, start=1):
        for position, (path, _) in enumerate(stage, start=1):
            ours = f"stage{index}.block{position}"
            found |= _attention(ours, path) if index == 3 else _qk_attention(ours, path)
            found |= placed(under(ours, path, _QKFORMER_MLP))
    return Found(spec, found)


def _attention(ours: str, theirs: str) -> dict[str, Place]:
    found = placed(under(f"{ours}.attn", f"{theirs}.attn", _PROJECTION | {"neuron": "attn_lif"}))
    return found | _split(f"{ours}.attn.qkv", f"{theirs}.attn", "qkv")


def _qk_attention(ours: str, theirs: str) -> dict[str, Place]:
    found = placed(under(f"{ours}.attn", f"{theirs}.attn", _PROJECTION | {"qk.q.gate": "attn_lif"}))
    return found | _split(f"{ours}.attn.qk", f"{theirs}.attn", "qk")


def _split(ours: str, theirs: str, names: str) -> dict[str, Place]:
    table = {"conv": f"{names}_conv_bn.0", "bn": f"{names}_conv_bn.1", "neuron": f"{names}_lif"}
    return {
        f"{ours}.{name}.{layer}": Place(f"{theirs}.{module}", part, len(names))
        for part, name in enumerate(names)
        for layer, module in table.items()
    }


def _ratio(dim: int, hidden: int) -> float:
    # the spec takes the whole part of the product
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


# our layer: their module, within a block

_BLOCK = {
    "conv1": "conv1",
    "bn1": "bn1",
    "neuron1": "sn1",
    "conv2": "conv2",
    "bn2": "bn2",
    "neuron2": "sn2",
    "downsample.conv": "downsample.0",
    "downsample.bn": "downsample.1",
    "downsample.neuron": "downsample_sn",
}
_MS_BLOCK = {name: module.replace("sn", "spike") for name, module in _BLOCK.items()} | {"pool": "max_pool"}
_PATCH = {"conv": "conv_bn.block.0", "bn": "conv_bn.block.1", "pool": "conv_bn.block.2", "neuron": "neuron"}
_PROJECTION = {"proj.conv": "proj_conv_bn.0", "proj.bn": "proj_conv_bn.1", "proj.neuron": "proj_lif"}
_SPIKFORMER_MLP = {
    f"mlp.fc{index}.{name}": f"mlp.{module}"
    for index in (1, 2)
    for name, module in {"conv": f"fc{index}.0", "bn": f"fc{index}.1", "neuron": f"neuron{index}"}.items()
}
_QKFORMER_MLP = {
    f"mlp.fc{index}.{name}": f"mlp.{module}{index}"
    for index in (1, 2)
    for name, module in {"conv": "fc", "bn": "bn", "neuron": "lif"}.items()
}
_EMBEDDING = {
    "conv1.conv": "conv1",
    "conv1.bn": "bn1",
    "conv1.pool": "pool",
    "conv1.neuron": "lif1",
    "conv2.conv": "conv2",
    "conv2.bn": "bn2",
    "conv2.neuron": "lif2",
    "downsample.conv": "shortcut.0",
    "downsample.bn": "shortcut.1",
    "downsample.neuron": "shortcut.2",
}
_FIRST_EMBEDDING = {
    "conv.conv": "conv1",
    "conv.bn": "bn1",
    "conv.pool": "pool1",
    "conv.neuron": "lif1",
    "patch.conv1.conv": "conv2",
    "patch.conv1.bn": "bn2",
    "patch.conv1.pool": "pool2",
    "patch.conv1.neuron": "lif2",
    "patch.conv2.conv": "conv3",
    "patch.conv2.bn": "bn3",
    "patch.conv2.neuron": "lif3",
} | {f"patch.{name}": module for name, module in _EMBEDDING.items() if name.startswith("downsample")}
_LETTERS = {"Conv2d": "C", "BatchNorm2d": "B", "MaxPool2d": "P", "Linear": "L", "Dropout": "D", "VotingLayer": "V"}


#: The networks by the names of their classes: a function of the network, time steps and size.
NETWORKS: dict[str, Callable[[nn.Module, int, tuple[int, int] | None], Found]] = {
    "SpikingResNet": _resnet,
    "SEWResNet": _sew_resnet,
    "MSResNet": _ms_resnet,
    "MaxResNet": _ms_resnet,
    "SpikingVGG": _spiking_vgg,
    "Spikformer": _spikformer,
    "QKFormer": _qkformer,
    "MNISTNet": _plif_net,
    "FashionMNISTNet": _plif_net,
    "NMNISTNet": _plif_net,
    "CIFAR10Net": _plif_net,
    "CIFAR10DVSNet": _plif_net,
    "DVSGestureNet": _plif_net,
}
