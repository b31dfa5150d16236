"""Shortcut back-propagation around any network: branches from its blocks straight to the output, in training only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits
from sbp_core.selection import Select, check_select, fields, of_each, part, replaced
from sbp_core.specs.networks import NetworkSpec
from sbp_core.specs.shortcut import Combine, ShortcutSpec
from sbp_core.taps import Channels, TapLayout, TimeAxis, resolve_time_axis
from sbp_torch import private
from sbp_torch.branches import Branch, Size, check_branch, checked, make_branch
from sbp_torch.neurons import LIF
from sbp_torch.sample import run_copy
from sbp_torch.taps import Reading, Recorder, call, gather, named_blocks, of_replica, read, release


class Shortcut(nn.Module):
    r"""Wraps a network with branches, each "global average pooling and a fully connected layer" (Guo et al. 2024).

    In training it returns ``o_final = b_n + coefficient * sum_l b_l`` (Eq. 6 and 10), or with ``combine="losses"`` a
    :class:`~sbp_core.ShortcutOutput` for :class:`ShortcutLoss`; in evaluation ``b_n`` alone, the branches not run. A
    branch whose coefficient is 0 is multiplied by 0, not skipped, so that its parameters always have a gradient.

    The network is not edited: ``main`` is the very object, with forward hooks on the tapped blocks that :meth:`strip`
    takes off. A tap is a path: what is put there later, an adapter round a layer, is what is read then. Wrap first,
    then compile or distribute the wrapper: ``torch.compile(Shortcut(net, ...))``. A network that ``torch.compile``
    returned may be wrapped too; in training it is then compiled once more, with the hooks.

    Where an argument holds for each tap, give one value for all of them, or a mapping from tap to value.

    Args:
        net: the network. Its main logits are ``(batch, num_classes)``, or those of each step with the axis of time
            where the taps have it; the branches then give those of each step too.
        taps: modules to tap, as ``net.named_modules()`` names them; or "stages": of a network of this package its own
            choice, else all but the last of those that ``net.feature_info`` names, as timm's networks state them.
        num_classes: classes of the logits.
        combine: "logits" adds the branches' logits to the main ones, "losses" returns them apart.
        time_axis: where time is in the tapped tensors: 0, ``(time, batch, channels, *space)``; 1, ``(batch, time,
            channels, *space)``; None for no time; "calls" if a tapped module is called once for each step, with
            ``(batch, channels, *space)``: every call in a forward pass is one step, and they are stacked in order;
            "merged", ``(time * batch, channels, *space)``, with ``time_steps``. "stated" takes ``net.time_axis`` or
            ``net.spec.time_axis``, or 0 where neurons of this package are in the network; a network that says nothing
            needs the argument.
        sample: an input of ``net`` (a tuple for several, a mapping for keywords) to learn the tapped channels from. It
            is run once, in training (but batch norms by their statistics) and without gradient, through a copy that
            shares the parameters. Without it they come from ``net.spec.tap_channels`` if the network has that, else
            from the first training batch, as in ``nn.LazyLinear``; then run one batch before compiling or distributing.
        branch: of each tap: "linear", the paper's; "convolutional", a :class:`ConvolutionalBranch`; or a function of
            (channels, num_classes) that returns a module from ``(items, channels, *space)`` to ``(items,
            num_classes)``, time and batch merged into the items.
        channels: of each tap: "first", before the axes of space; "last", after them, as in ``(batch, tokens,
            channels)``; or an axis.
        select: of each tap: which part of the module's output is meant, an index, a key, or a function that gives the
            tensor; None if the output is a tensor.
        output: which part of the network's output is the logits, an index or a key; training returns the output with
            that part replaced.
        time_steps: how many steps are merged.

    Attributes:
        main: the network.
        branches: tap to its branch; a dot in a tap's name reads "/" here, as module names hold none.
        coefficient: the 0-d buffer lambda, 1 until it is set. A :class:`CoefficientScheduler` moves it.
        spec: taps and composition.

    Raises:
        ValueError: a tap that does not exist (the message lists those that do), one named twice, no time axis, a bad
            argument, a network already distributed or in another Shortcut; in a call: a tapped tensor or logits of a
            shape that does not fit.
        TypeError: ``net`` is not a module; in a call: a tap or the network gives something other than a tensor.
        RuntimeError: in a call: a tap did not run, ran twice or without gradient, or its path leads nowhere any more;
            training after :meth:`strip`, or with the network distributed but not the wrapper; a network that gives a
            loss of its own, which the branches have no part in.

    Example:
        >>> from sbp_torch.networks import resnet18
        >>> model = Shortcut(resnet18(widths=(4, 4, 8, 8), time_steps=2), taps=["layer1", "layer2"], num_classes=10)
        >>> model(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
        >>> model.strip() is model.main
        True
    """

    coefficient: Tensor

    def __init__(
        self,
        net: nn.Module,
        taps: Sequence[str] | Literal["stages"],
        num_classes: int,
        combine: Combine = "logits",
        time_axis: TimeAxis | Literal["stated"] = "stated",
        sample: Any = None,
        *,
        branch: Branch | Mapping[str, Branch] = "linear",
        channels: Channels | Mapping[str, Channels] = "first",
        select: Select | Mapping[str, Select] = None,
        output: int | str | None = None,
        time_steps: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if _distributed(net):
            raise ValueError(f"net must not be {_distribute_the_wrapper(net)}")
        release(net)
        if taps == "stages":
            taps = stages(net)
        # a str is a sequence too: the spec refuses it
        self.spec = ShortcutSpec(taps=taps if isinstance(taps, str) else tuple(taps), combine=combine)  # type: ignore[arg-type]
        self.spec.check_taps(named_blocks(net))
        self.num_classes = validation.count("num_classes", num_classes)
        self.time_axis: TimeAxis = resolve_time_axis(time_axis, _stated(net), type(net).__name__)
        places: dict[str, Channels] = of_each("channels", channels, self.spec.taps, "first")
        self._layouts = {
            tap: TapLayout(time_axis=self.time_axis, channels=places[tap], time_steps=time_steps)
            for tap in self.spec.taps
        }
        self._select: dict[str, Select] = of_each("select", select, self.spec.taps, None)
        self._output = output
        kinds: dict[str, Branch] = of_each("branch", branch, self.spec.taps, "linear")
        for tap in self.spec.taps:
            check_select("select", self._select[tap])
            check_branch(tap, kinds[tap])
        check_select("output", output, or_function=False)
        sizes = self._sizes(net, sample)
        like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
        self.main = net
        self.branches = nn.ModuleDict(
            {branch_key(tap): make_branch(tap, kinds[tap], sizes.get(tap), num_classes, like) for tap in self.spec.taps}
        )
        # as precise as the network, and never less than float32
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.register_buffer("coefficient", torch.ones((), dtype=dtype, device=like.device))
        self._recorder = Recorder(net, self.spec.taps)
        self._recorder.belongs_to(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._recorder.belongs_to(self)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """Run the network on its own arguments; in training, the branches too."""
        if not self.training:
            return self.main(*inputs, **keywords)
        if not self._recorder.installed:
            raise RuntimeError("this Shortcut was stripped and cannot train any more; wrap the network in a new one")
        if _distributed(self.main):
            raise RuntimeError(f"main must not be {_distribute_the_wrapper(self.main)}")
        if hasattr(self.main, "set_requires_gradient_sync") and not hasattr(self, "set_requires_gradient_sync"):
            raise RuntimeError(
                "the network was sharded by fully_shard, but not its branches, whose gradients would not be shared; "
                "call fully_shard on the Shortcut too"
            )
        result, main, tapped = self._run(inputs, keywords)
        _check_no_loss(result, self._output, keywords)
        branches = []
        for tap, reading in zip(self.spec.taps, tapped, strict=True):
            branch = checked(tap, self.branches[branch_key(tap)], self.num_classes)
            branches.append(reading.as_main(branch(reading.items)))
        if self.spec.combine == "losses":
            return replaced(result, self._output, ShortcutOutput(main, tuple(branches)))
        # a copy: the buffer may move before this step's backward pass
        return replaced(result, self._output, sum_logits(main, branches, self.coefficient.clone()))

    def set_coefficient(self, value: float) -> None:
        """Set the weight of the branches, in place, so that nothing recompiles.

        Raises:
            TypeError: not a number.
            ValueError: not finite.
        """
        self.coefficient.fill_(validation.finite("coefficient", value))

    def strip(self) -> nn.Module:
        """Take every hook off the network and return it, the very object that went in."""
        self._recorder.remove(self.main)
        return self.main

    def extra_repr(self) -> str:
        """Return taps, composition and time axis, for printing."""
        return f"taps={list(self.spec.taps)}, combine={self.spec.combine!r}, time_axis={self.time_axis!r}"

    def _run(self, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[Any, Tensor, list[Reading]]:
        if private.is_replica(self):
            recorder = of_replica(self.main, self.spec.taps)
        else:
            recorder = self._recorder
            recorder.follow(self.main)
        recorder.start()
        try:
            result = call(self.main, inputs, keywords)
            recorded = recorder.outputs(self.main)
        finally:
            recorder.stop()
        main, tapped = self._checked(result, recorded)
        return result, main, tapped

    def _checked(self, result: Any, recorded: Sequence[Sequence[Any]]) -> tuple[Tensor, list[Reading]]:
        main: Tensor = part("net", result, self._output, "output", Tensor, noun="tensor")
        tapped = []
        for tap, outputs in zip(self.spec.taps, recorded, strict=True):
            x = gather(tap, outputs, self._select[tap], self.time_axis)
            tapped.append(read(tap, x, self._layouts[tap], main, self.num_classes))
        return main, tapped

    def _sizes(self, net: nn.Module, sample: Any) -> Mapping[str, Size]:
        if sample is None:
            spec = getattr(net, "spec", None)
            if isinstance(spec, NetworkSpec):
                return {tap: Size(shape.channels, len(shape.space)) for tap, shape in spec.parts.items()}
            stated: Mapping[str, int] = getattr(spec, "tap_channels", None) or {}
            return {tap: Size(channels, 2) for tap, channels in stated.items()}
        _, tapped = self._checked(*run_copy(net, self.spec.taps, sample))
        shapes = {tap: reading.items.shape for tap, reading in zip(self.spec.taps, tapped, strict=True)}
        return {tap: Size(shape[1], len(shape) - 2) for tap, shape in shapes.items()}


def stages(net: nn.Module) -> tuple[str, ...]:
    """Return the modules that "stages" taps: of a network of this package, or of one that states ``feature_info``.

    Raises:
        ValueError: it says neither, or has one stage alone.
    """
    spec = getattr(net, "spec", None)
    if isinstance(spec, NetworkSpec):
        return spec.default_taps
    info = getattr(net, "feature_info", None)
    # timm's is a list of dictionaries, or an object that holds one
    entries = getattr(info, "info", info)
    names = [entry.get("module") for entry in entries or [] if isinstance(entry, Mapping)]
    # two reductions may be read at one module
    found = tuple(dict.fromkeys(name for name in names if name))
    if len(found) < 2:
        raise ValueError(
            f"taps='stages' needs a network of sbp_torch, or one with feature_info of two modules at least, as timm's "
            f"have; {type(net).__name__} states {names or 'none'}. Name modules: {', '.join(named_blocks(net))}"
        )
    return found[:-1]


def branch_key(tap: str) -> str:
    """Return the name of a tap's branch among the modules: without dots, and not one that ModuleDict uses itself."""
    key = tap.replace(".", "/")
    return f"{key}/" if hasattr(nn.ModuleDict, key) else key


def _stated(net: nn.Module) -> list[object]:
    """Return where the network says that time is: itself, its spec, or the neurons in it."""
    owner: Any
    for owner in (net, getattr(net, "spec", None)):
        if hasattr(owner, "time_axis"):
            return [owner.time_axis]
    return [0] if any(isinstance(module, LIF) for module in net.modules()) else []


def _distributed(net: nn.Module) -> bool:
    return isinstance(net, nn.parallel.DistributedDataParallel | nn.DataParallel)


def _distribute_the_wrapper(net: nn.Module) -> str:
    name = type(net).__name__
    return (
        f"a {name}: the branches' gradients would not be shared; wrap the network first and distribute the wrapper, "
        f"{name}(Shortcut(net, ...))"
    )


def _check_no_loss(result: Any, output: int | str | None, keywords: Mapping[str, Any]) -> None:
    """Raise if the network computed a loss beside its logits: trained by that, the branches would never move."""
    if output is None:
        return
    if isinstance(result, Mapping):
        loss = result.get("loss")
    elif "loss" in fields(result):
        loss = result.loss
    else:
        loss = result[0] if "labels" in keywords and isinstance(result, tuple | list) else None
    if isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad:
        raise RuntimeError(
            "the network gave a loss of its own, computed from its logits alone: the branches would have no part in "
            "it. Leave the labels out of the call, and compute the loss from the logits that the Shortcut gives"
        )
