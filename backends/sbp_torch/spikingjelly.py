"""From a SpikingJelly network to a spec of ours, and weights under its names, which every framework's networks take.

Written against SpikingJelly 2.0.0, which need not be installed: modules are known by the names of their classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sbp_core import presets
from sbp_core.specs import layers as kinds
from sbp_core.specs.layers import LayerSpec, Shape
from sbp_core.specs.networks import NetworkSpec, ResNetSpec
from sbp_core.specs.networks.ms_resnet import MSResNetSpec
from sbp_core.specs.networks.qkformer import QKFormerSpec
from sbp_core.specs.networks.sew_resnet import SEWResNetSpec
from sbp_core.specs.networks.spikformer import SpikformerSpec
from sbp_core.specs.networks.vgg import VGGSpec
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.surrogates import Surrogate
from sbp_core.weights import Array


class Ported(NamedTuple):
    """A network of SpikingJelly's as one of ours.

    Attributes:
        spec: the network.
        weights: by canonical name, for ``import_weights`` of any adapter.
    """

    spec: NetworkSpec
    weights: dict[str, Array]


class Place(NamedTuple):
    """Where a layer of ours is in their network.

    Attributes:
        path: of their module.
        part: which of its equal parts of channels: they compute q, k and v in one.
        parts: how many it has.
    """

    path: str
    part: int = 0
    parts: int = 1


#: Paths and modules, in order.
_Modules = list[tuple[str, nn.Module]]


class _Found(NamedTuple):
    spec: NetworkSpec
    # by the path of our layer
    places: dict[str, Place]


def from_spikingjelly(net: nn.Module, *, time_steps: int | None = None, size: tuple[int, int] | None = None) -> Ported:
    """Return the spec of a SpikingJelly network, and its weights under our names.

    Known are its ``SpikingResNet``, ``SEWResNet``, ``MSResNet``, ``MaxResNet``, ``SpikingVGG``, ``Spikformer``,
    ``QKFormer``, and the networks of the PLIF paper, ``DVSGestureNet`` for one; with ``IFNode``, ``LIFNode`` or
    ``ParametricLIFNode``, the same everywhere, but that the threshold behind an attention is half of the others'. Every
    layer is compared with the spec's, so that what comes out computes what ``net`` does.

    Args:
        net: of SpikingJelly, on any device; it is not changed.
        time_steps: of still images; what ``net`` says, or 4 where it does not.
        size: height and width of the images of a network that flattens its maps; the smallest that fits unless given.

    Returns:
        The spec, and name to array.

    Raises:
        TypeError: not a module.
        ValueError: another network, or a layer that ours has not; the message names it.
    """
    spec, places = _found(net, time_steps, size)
    weights = {}
    used = set()
    for placed in spec.outline():
        place = places.get(placed.path)
        if place is None:
            if type(placed.layer) in _NEEDED:
                raise ValueError(f"net lacks a module for {placed.path!r} of a {spec.kind}")
            continue
        module = _at(net, place.path)
        used.add(place.path)
        _check(place, module, placed.layer, placed.inputs[0])
        for name, parameter in placed.parameters().items():
            weights[name] = _array(place, module, name.rpartition(".")[2], parameter.shape)
    _all_used(net, used, spec)
    return Ported(spec, weights)


def places(net: nn.Module) -> dict[str, Place]:
    """Return where each layer of ours is in ``net``, by the layer's path.

    Raises:
        TypeError: not a module.
        ValueError: another network than :func:`from_spikingjelly` knows.
    """
    return _found(net, None, None).places


def _found(net: nn.Module, time_steps: int | None, size: tuple[int, int] | None) -> _Found:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch module, got {type(net).__name__}")
    for parent in type(net).__mro__:
        read = NETWORKS.get(parent.__name__)
        if read is None:
            continue
        if type(net).forward is not getattr(parent, "forward", None):
            raise ValueError(f"net is a {parent.__name__} with a forward of its own, {type(net).__name__}'s")
        steps: Any = getattr(net, "T", 4) if time_steps is None else time_steps
        return read(net, steps, size)
    raise ValueError(f"net must be one of SpikingJelly's {', '.join(NETWORKS)}; got {type(net).__name__}")


# what stands in a layer's place


def _check(place: Place, module: nn.Module, layer: Any, shape: Shape) -> None:
    if type(layer) in _FACTS:
        names, facts = _FACTS[type(layer)]
        if type(module).__name__ not in names:
            raise ValueError(f"{place.path} must be {' or '.join(names)}, got {type(module).__name__}")
        for what, found, wanted in facts(layer, module, shape):
            if found != wanted:
                raise ValueError(f"{place.path}: {what} must be {wanted!r}, got {found!r}")
    if isinstance(layer, kinds.Neuron):
        _check_neuron(place, module, layer.spec)


def _check_neuron(place: Place, module: nn.Module, wanted: LIFSpec) -> None:
    found = neuron_spec(module, place.path)
    if found.learn_decay and place.parts > 1:
        raise ValueError(f"{place.path} learns one decay for {place.parts} paths, which have neurons of their own here")
    if found.learn_decay and wanted.learn_decay:
        # where it starts: what it has learnt is among the weights
        found = found.replace(decay=wanted.decay)
    here, there = found.to_dict(), wanted.to_dict()
    differ = [f"{name}={here[name]!r} instead of {there[name]!r}" for name in here if here[name] != there[name]]
    if differ:
        raise ValueError(f"{place.path} must be as the network's other neurons are, it has {', '.join(differ)}")


def neuron_spec(node: nn.Module, path: str = "net") -> LIFSpec:
    """Return the spec of a SpikingJelly neuron: ``IFNode``, ``LIFNode`` or ``ParametricLIFNode``.

    Args:
        node: the neuron.
        path: its name, for messages.

    Raises:
        ValueError: another neuron, or another surrogate than the core has.
    """
    name = type(node).__name__
    if name not in _NODES:
        raise ValueError(f"{path} must be a neuron, {', '.join(_NODES)}, got {name}")
    shared = {key: _of(node, key, path) for key in ("v_threshold", "v_reset", "detach_reset")}
    shared["surrogate"] = _surrogate(_of(node, "surrogate_function", path), path)
    if name == "IFNode":
        return presets.spikingjelly_if(**shared)
    learnt = name == "ParametricLIFNode"
    tau = 1.0 + math.exp(-_of(node, "w", path).item()) if learnt else _of(node, "tau", path)
    return presets.spikingjelly_lif(tau=tau, decay_input=_of(node, "decay_input", path), learn_decay=learnt, **shared)


def _surrogate(function: Any, path: str) -> Surrogate:
    name = type(function).__name__
    if name not in _SURROGATES:
        raise ValueError(f"{path}: the surrogate must be one of {', '.join(_SURROGATES)}, got {name}")
    if not _of(function, "spiking", path):
        raise ValueError(f"{path}: the surrogate must have spiking=True, it gives what is no spike")
    make, fields = _SURROGATES[name]
    return make(*(float(_of(function, field, path)) for field in fields))


def _array(place: Place, module: nn.Module, name: str, shape: tuple[int, ...]) -> Array:
    tensor: Tensor = -_of(module, "w", place.path) if name == "decay_logit" else _of(module, name, place.path)
    tensor = tensor.detach().cpu().chunk(place.parts)[place.part] if place.parts > 1 else tensor.detach().cpu()
    if tensor.ndim == 3 and len(shape) == 4 and tensor.shape[2] == 1:
        # a 1x1 convolution over tokens is one over the map
        tensor = tensor.unsqueeze(3)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{place.path}.{name} must have shape {shape}, got {tuple(tensor.shape)}")
    plain = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    found: Array = plain.numpy().copy()
    return found


def _all_used(net: nn.Module, used: set[str], spec: NetworkSpec) -> None:
    for path, module in net.named_modules():
        within = any(path == name or path.startswith(f"{name}.") for name in used)
        if within or next(module.children(), None) is not None or type(module).__name__ in ("Identity", "Sequential"):
            continue
        if isinstance(getattr(module, "p", None), float) and module.p == 0.0:
            continue
        raise ValueError(f"{path} is a {type(module).__name__}, which a {spec.kind} does not have there")


# the architectures: sizes of their modules, and where our layers are


def _resnet(net: nn.Module, time_steps: int, size: object) -> _Found:
    fields = _residual_fields(net, time_steps, "conv1", "bn1", "sn1", "fc")
    return _Found(ResNetSpec(**fields), _residual_places(net))


def _sew_resnet(net: nn.Module, time_steps: int, size: object) -> _Found:
    fields = _residual_fields(net, time_steps, "conv1", "bn1", "sn1", "fc")
    join = _alike(net, [path for path, _ in _blocks(net)], "cnf")
    return _Found(SEWResNetSpec(join=join.lower(), **fields), _residual_places(net))


def _ms_resnet(net: nn.Module, time_steps: int, size: object) -> _Found:
    fields = _residual_fields(net, time_steps, "stem.0", "stem.1", "head_lif", "head")
    channels = _conv(net, "stem.0").out_channels
    pools = [path for path, block in _blocks(net) if hasattr(block, "max_pool")]
    first = "layer1.0.max_pool" if "layer1.0" in pools else "layer1.0.conv1"
    stride = _of(_at(net, first), "stride", first)
    if pools:
        fields |= {"downsample": "max", "scale": 1.0, "residual_scale": 1.0}
    spec = MSResNetSpec(
        stem_channels=None if channels == fields["widths"][0] else channels,
        first_stage_stride=stride[0] if isinstance(stride, tuple) else stride,
        **fields,
    )
    table = {"stem.conv": "stem.0", "stem.bn": "stem.1", "last.neuron": "head_lif", "pool": "avgpool", "head": "head"}
    for path, _ in _blocks(net):
        table |= _under(path, path, _MS_BLOCK)
    return _Found(spec, _placed(table))


def _residual_fields(net: nn.Module, time_steps: int, conv: str, norm: str, neuron: str, head: str) -> dict[str, Any]:
    stages: dict[str, list[str]] = {}
    for path, block in _blocks(net):
        if hasattr(block, "conv3"):
            raise ValueError(f"{path} is a {type(block).__name__}, and only blocks of two convolutions are supported")
        stages.setdefault(path.partition(".")[0], []).append(path)
    stem, bn = _conv(net, conv), _at(net, norm)
    return {
        "depths": tuple(len(blocks) for blocks in stages.values()),
        "widths": tuple(_conv(net, f"{blocks[0]}.conv1").out_channels for blocks in stages.values()),
        "stem": "imagenet" if stem.kernel_size[0] == 7 else "cifar",
        "neuron": neuron_spec(_at(net, neuron), neuron),
        "batch_norm_epsilon": _of(bn, "eps", norm),
        "batch_norm_momentum": _of(bn, "momentum", norm),
        "num_classes": _linear(net, head).out_features,
        "in_channels": stem.in_channels,
        "time_steps": time_steps,
    }


def _blocks(net: nn.Module) -> _Modules:
    stages = [f"layer{index}" for index in range(1, 5) if getattr(net, f"layer{index}", None) is not None]
    return [(f"{stage}.{name}", block) for stage in stages for name, block in _at(net, stage).named_children()]


def _residual_places(net: nn.Module) -> dict[str, Place]:
    table = {"stem.conv": "conv1", "stem.bn": "bn1", "stem.neuron": "sn1", "stem.pool": "maxpool"}
    table |= {"pool": "avgpool", "head": "fc"}
    for path, _ in _blocks(net):
        table |= _under(path, path, _BLOCK)
    return _placed(table)


def _spiking_vgg(net: nn.Module, time_steps: int, size: tuple[int, int] | None) -> _Found:
    pool = _pair(_of(_at(net, "avgpool"), "output_size", "avgpool"))
    features, head = _children(net, "features"), _children(net, "classifier")
    found = _vgg(features, head, time_steps, size, None if pool == (1, 1) else pool)
    return _Found(found.spec, found.places | {"flat": Place("avgpool")})


def _plif_net(net: nn.Module, time_steps: int, size: tuple[int, int] | None) -> _Found:
    modules = _children(net, "conv_fc")
    flat = next((index for index, (_, module) in enumerate(modules) if type(module).__name__ == "Flatten"), 0)
    channels = [module.out_channels for _, module in modules[:flat] if isinstance(module, nn.Conv2d)]
    inputs = [module.in_features for _, module in modules[flat:] if isinstance(module, nn.Linear)]
    if not (channels and inputs):
        raise ValueError("conv_fc must have convolutions, a Flatten and linear layers")
    side = math.isqrt(inputs[0] // channels[-1])
    found = _vgg(modules[:flat], modules[flat + 1 :], time_steps, size, (side, side))
    return _Found(found.spec, found.places | {"flat": Place(modules[flat][0])})


def _vgg(features: _Modules, head: _Modules, time_steps: int, size: tuple[int, int] | None, flat: Any) -> _Found:
    _spelt(features, r"((CBN)+P)+", "convolution, batch norm and neuron, and a max pool behind each stage")
    voted = _spelt(head, r"D?(LND?)*L(NV)?", "linear layers, a neuron behind each but the last").endswith("V")
    table, stages = _stages(features)
    units = [module.out_features for _, module in head if isinstance(module, nn.Linear)]
    rates = [_of(module, "p", path) for path, module in head if _letter(module) == "D"]
    outputs = units.pop()
    voters = _of(head[-1][1], "voting_size", head[-1][0]) if voted else None
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
    return _Found(spec, _placed(table | _head(head, len(units), voted=voted)))


def _stages(features: _Modules) -> tuple[dict[str, str], tuple[tuple[int, ...], ...]]:
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


def _head(head: _Modules, hidden: int, *, voted: bool) -> dict[str, str]:
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


def _spelt(modules: _Modules, wanted: str, words: str) -> str:
    found = "".join(_letter(module) for _, module in modules)
    if not re.fullmatch(wanted, found):
        names = ", ".join(type(module).__name__ for _, module in modules)
        where = modules[0][0].partition(".")[0] if modules else "net"
        raise ValueError(f"{where} must have {words}; got {names}")
    return found


def _letter(module: nn.Module) -> str:
    name = type(module).__name__
    return "N" if name in _NODES or name.endswith("Node") else _LETTERS.get(name, "?")


def _spikformer(net: nn.Module, time_steps: int, size: object) -> _Found:
    stages, blocks = _children(net, "patch_embed.stages"), _children(net, "blocks")
    dim = _conv(net, f"{stages[-1][0]}.conv_bn.block.0").out_channels
    pools = hasattr(_at(net, f"{stages[0][0]}.conv_bn.block"), "2")
    attentions = [f"{path}.attn" for path, _ in blocks]
    spec = SpikformerSpec(
        dim=dim,
        depth=len(blocks),
        heads=_alike(net, attentions, "num_heads"),
        patch=16 if pools else 4,
        mlp_ratio=_ratio(dim, _conv(net, f"{blocks[0][0]}.mlp.fc1.0").out_channels),
        scale=_alike(net, attentions, "scale"),
        neuron=neuron_spec(_at(net, f"{stages[0][0]}.neuron"), f"{stages[0][0]}.neuron"),
        num_classes=_linear(net, "head").out_features,
        in_channels=_conv(net, f"{stages[0][0]}.conv_bn.block.0").in_channels,
        time_steps=time_steps,
    )
    found = _placed({"head": "head"} | _under("patch_embed.position", "patch_embed.positional_encoding", _PATCH))
    for index, (path, _) in enumerate(stages, start=1):
        found |= _placed(_under(f"patch_embed.stage{index}", path, _PATCH))
    for index, (path, _) in enumerate(blocks, start=1):
        found |= _attention(f"block{index}", path) | _placed(_under(f"block{index}", path, _SPIKFORMER_MLP))
    return _Found(spec, found)


def _qkformer(net: nn.Module, time_steps: int, size: object) -> _Found:
    stages = [_children(net, f"stage{index}") for index in (1, 2, 3)]
    attentions = [[f"{path}.attn" for path, _ in stage] for stage in stages]
    kind = _alike(net, attentions[0] + attentions[1], "qka_type")
    if kind != "token":
        raise ValueError(f"{attentions[0][0]}: qka_type must be 'token', got {kind!r}")
    scale = _alike(net, attentions[2], "scale")
    if scale != 0.125:
        raise ValueError(f"{attentions[2][0]}: scale must be 0.125, got {scale!r}")
    embed = "patch_embed1.conv1"
    dim = _conv(net, "patch_embed3.conv2").out_channels
    spec = QKFormerSpec(
        dim=dim,
        depths=tuple(len(stage) for stage in stages),
        heads=tuple(_alike(net, stage, "num_heads") for stage in attentions),
        first_pool=True,
        bias=_conv(net, embed).bias is not None,
        mlp_ratio=_ratio(dim, _conv(net, f"{stages[2][0][0]}.mlp.fc1").out_channels),
        neuron=neuron_spec(_at(net, "patch_embed1.lif1"), "patch_embed1.lif1"),
        num_classes=_linear(net, "head").out_features,
        in_channels=_conv(net, embed).in_channels,
        time_steps=time_steps,
    )
    found = _placed({"head": "head"} | _under("stage1.embed", "patch_embed1", _FIRST_EMBEDDING))
    for index in (2, 3):
        found |= _placed(_under(f"stage{index}.embed", f"patch_embed{index}", _EMBEDDING))
    for index, stage in enumerate(stages, start=1):
        for position, (path, _) in enumerate(stage, start=1):
            ours = f"stage{index}.block{position}"
            found |= _attention(ours, path) if index == 3 else _qk_attention(ours, path)
            found |= _placed(_under(ours, path, _QKFORMER_MLP))
    return _Found(spec, found)


def _attention(ours: str, theirs: str) -> dict[str, Place]:
    found = _placed(_under(f"{ours}.attn", f"{theirs}.attn", _PROJECTION | {"neuron": "attn_lif"}))
    return found | _split(f"{ours}.attn.qkv", f"{theirs}.attn", "qkv")


def _qk_attention(ours: str, theirs: str) -> dict[str, Place]:
    found = _placed(_under(f"{ours}.attn", f"{theirs}.attn", _PROJECTION | {"qk.q.gate": "attn_lif"}))
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


# reading modules


def _at(net: nn.Module, path: str) -> nn.Module:
    try:
        return net.get_submodule(path)
    except AttributeError:
        raise ValueError(f"net has no module {path!r}: {type(net).__name__} is not built as SpikingJelly's") from None


def _children(net: nn.Module, path: str) -> _Modules:
    found = [(f"{path}.{name}", module) for name, module in _at(net, path).named_children()]
    if not found:
        raise ValueError(f"{path} must have modules, it is empty")
    return found


def _conv(net: nn.Module, path: str) -> nn.Conv1d | nn.Conv2d:
    module = _at(net, path)
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        raise ValueError(f"{path} must be a convolution, got {type(module).__name__}")
    return module


def _linear(net: nn.Module, path: str) -> nn.Linear:
    module = _at(net, path)
    if not isinstance(module, nn.Linear):
        raise ValueError(f"{path} must be a Linear, got {type(module).__name__}")
    return module


def _of(module: object, name: str, path: str) -> Any:
    if not hasattr(module, name):
        raise ValueError(f"{path} is a {type(module).__name__} without {name!r}")
    return getattr(module, name)


def _alike(net: nn.Module, paths: list[str], name: str) -> Any:
    found = [_of(_at(net, path), name, path) for path in paths]
    for path, value in zip(paths, found, strict=True):
        if value != found[0]:
            raise ValueError(f"{path}: {name} must be {found[0]!r} as that of {paths[0]}, got {value!r}")
    return found[0]


def _pair(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _under(ours: str, theirs: str, table: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{name}": f"{theirs}.{module}" for name, module in table.items()}


def _placed(table: Mapping[str, str]) -> dict[str, Place]:
    return {name: Place(path) for name, path in table.items()}


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

_NODES = ("IFNode", "LIFNode", "ParametricLIFNode")
_LETTERS = {"Conv2d": "C", "BatchNorm2d": "B", "MaxPool2d": "P", "Linear": "L", "Dropout": "D", "VotingLayer": "V"}
_SURROGATES: dict[str, tuple[Callable[..., Surrogate], tuple[str, ...]]] = {
    "Sigmoid": (presets.spikingjelly_sigmoid, ("alpha",)),
    "ATan": (presets.spikingjelly_atan, ("alpha",)),
    "SoftSign": (presets.spikingjelly_softsign, ("alpha",)),
    "SuperSpike": (presets.spikingjelly_superspike, ("alpha",)),
    "PiecewiseQuadratic": (presets.spikingjelly_piecewise_quadratic, ("alpha",)),
    "Rect": (presets.spikingjelly_rect, ("alpha",)),
    "Erf": (presets.spikingjelly_erf, ("alpha",)),
    "PiecewiseExp": (presets.spikingjelly_piecewise_exp, ("alpha",)),
    "PiecewiseLeakyReLU": (presets.spikingjelly_piecewise_leaky_relu, ("w", "c")),
}


# what a module must be for it to compute what a layer does: attribute, found, wanted

_Facts = list[tuple[str, Any, Any]]


def _conv_facts(layer: kinds.Conv, module: Any, shape: Shape) -> _Facts:
    axes = len(module.kernel_size)
    wanted = {"kernel_size": layer.kernel, "stride": layer.stride, "padding": layer.pad, "dilation": 1}
    facts: _Facts = [(name, getattr(module, name), (value,) * axes) for name, value in wanted.items()]
    facts += [("groups", module.groups, layer.groups), ("bias", module.bias is not None, layer.bias)]
    return [*facts, ("padding_mode", module.padding_mode, "zeros")]


def _norm_facts(layer: kinds.BatchNorm, module: Any, shape: Shape) -> _Facts:
    wanted = {"eps": layer.epsilon, "momentum": layer.momentum, "affine": True, "track_running_stats": True}
    return [(name, getattr(module, name), value) for name, value in wanted.items()]


def _pool_facts(layer: kinds.MaxPool, module: Any, shape: Shape) -> _Facts:
    wanted = {"kernel_size": layer.kernel, "stride": layer.step, "padding": layer.padding, "dilation": 1}
    facts: _Facts = [(name, _pair(getattr(module, name)), (value, value)) for name, value in wanted.items()]
    return [*facts, ("ceil_mode", module.ceil_mode, False)]


def _flatten_facts(layer: kinds.Flatten, module: Any, shape: Shape) -> _Facts:
    if type(module).__name__ == "Flatten":
        return [("start_dim", module.start_dim, 1), ("end_dim", module.end_dim, -1)]
    # what pools to the size that maps have does nothing
    return [("output_size", _pair(module.output_size), shape.space)]


_FACTS: dict[type[LayerSpec], tuple[tuple[str, ...], Callable[[Any, Any, Shape], _Facts]]] = {
    kinds.Conv: (("Conv1d", "Conv2d"), _conv_facts),
    kinds.BatchNorm: (("BatchNorm1d", "BatchNorm2d"), _norm_facts),
    kinds.Linear: (("Linear",), lambda layer, module, shape: [("bias", module.bias is not None, layer.bias)]),
    kinds.MaxPool: (("MaxPool2d",), _pool_facts),
    kinds.GlobalPool: (
        ("AdaptiveAvgPool2d",),
        lambda layer, module, shape: [("output_size", _pair(module.output_size), (1, 1))],
    ),
    kinds.Flatten: (("Flatten", "AdaptiveAvgPool2d"), _flatten_facts),
    kinds.Dropout: (("Dropout",), lambda layer, module, shape: [("p", module.p, layer.rate)]),
    kinds.Vote: (("VotingLayer",), lambda layer, module, shape: [("voting_size", module.voting_size, layer.voters)]),
}

#: Kinds that must have a module of theirs: the others are written out in its ``forward``.
_NEEDED = {kinds.Conv, kinds.BatchNorm, kinds.Linear, kinds.MaxPool, kinds.Neuron, kinds.Dropout, kinds.Vote}

#: The networks by the names of their classes: a function of the network, time steps and size.
NETWORKS: dict[str, Callable[[nn.Module, int, tuple[int, int] | None], _Found]] = {
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
