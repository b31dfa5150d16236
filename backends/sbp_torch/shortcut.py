"""Shortcut back-propagation around any network: branches from its blocks straight to the output, in training only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_torch.readout import TimeAxis, batch_axis, channel_axis, read_out
from sbp_torch.taps import Recorder


class Shortcut(nn.Module):
    r"""Wraps a network with branches, each "global average pooling and a fully connected layer" (Guo et al. 2024).

    In training it returns ``o_final = b_n + coefficient * sum_l b_l`` (Eq. 6 and 10), or with ``combine="losses"`` a
    :class:`~sbp_core.ShortcutOutput` for :class:`ShortcutLoss`; in evaluation ``b_n`` alone, the branches not run. A
    branch whose coefficient is 0 is multiplied by 0, not skipped, so that its parameters always have a gradient.

    The network is not edited: ``main`` is the very object, with forward hooks on the tapped blocks that :meth:`strip`
    takes off. Wrap first, then compile or distribute the wrapper: ``torch.compile(Shortcut(net, ...))``.

    Args:
        net: the network; its output is the main logits, ``(batch, num_classes)``.
        taps: modules to tap, as ``net.named_modules()`` names them. Each gives one tensor, ``(time, batch, channels,
            *space)`` or as ``time_axis`` says, and runs once in a forward pass.
        num_classes: classes of the logits.
        combine: "logits" adds the branches' logits to the main ones, "losses" returns them apart.
        time_axis: where time is in the tapped tensors: 0, 1 (``(batch, time, channels, *space)``) or None for no time.
        sample: an input of ``net``, run once, in evaluation and without gradient, to learn the tapped channels. Without
            it they come from ``net.spec.tap_channels`` if the network has that, else from the first training batch, as
            in ``nn.LazyLinear``; then run one batch before compiling.

    Attributes:
        main: the network.
        branches: tap to linear layer; a dot in a tap's name reads "/" here, as module names hold none.
        coefficient: the 0-d buffer lambda, 1 until it is set. A :class:`CoefficientScheduler` moves it.
        spec: taps and composition.

    Raises:
        ValueError: a tap that does not exist (the message lists those that do), one named twice, a bad argument; in a
            call: a tapped tensor or logits of a shape that does not fit.
        TypeError: ``net`` is not a module; in a call: a tap or the network gives something other than a tensor.
        RuntimeError: in a call: a tap did not run, or ran twice; training after :meth:`strip`.

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
        taps: Sequence[str],
        num_classes: int,
        combine: Literal["logits", "losses"] = "logits",
        time_axis: TimeAxis = 0,
        sample: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if time_axis not in (0, 1, None) or isinstance(time_axis, bool):
            raise ValueError(f"time_axis must be 0, 1 or None, got {time_axis!r}")
        # a str is a sequence too: the spec refuses it
        self.spec = ShortcutSpec(taps=taps if isinstance(taps, str) else tuple(taps), combine=combine)  # type: ignore[arg-type]
        self.spec.check_taps(name for name, _ in net.named_modules() if name)
        self.num_classes = validation.count("num_classes", num_classes)
        self.time_axis: TimeAxis = time_axis
        self.main = net
        self._recorder = Recorder(net, self.spec.taps)
        self.branches = nn.ModuleDict()
        try:
            channels = self._channels(sample)
            like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
            for tap in self.spec.taps:
                self.branches[branch_key(tap)] = _linear(channels.get(tap), num_classes, like)
        except BaseException:
            self._recorder.remove()
            raise
        self.register_buffer("coefficient", torch.ones((), device=like.device))

    def forward(self, *inputs: Any, **keywords: Any) -> Tensor | ShortcutOutput:
        """Run the network on its own arguments; in training, the branches too."""
        if not self.training:
            output: Tensor = self.main(*inputs, **keywords)
            return output
        if not self._recorder.installed:
            raise RuntimeError("this Shortcut was stripped and cannot train any more; wrap the network in a new one")
        main, tapped = self._run(*inputs, **keywords)
        self._check_main(main)
        branches = []
        for tap, x in zip(self.spec.taps, tapped, strict=True):
            self._check_tap(tap, x, main)
            branches.append(read_out(self.branches[branch_key(tap)], x, self.time_axis))  # type: ignore[arg-type]
        if self.spec.combine == "losses":
            return ShortcutOutput(main, tuple(branches))
        # a copy: the buffer may move before this step's backward pass
        total: Tensor = sum_logits(main, branches, self.coefficient.clone())
        return total

    def set_coefficient(self, value: float) -> None:
        """Set the weight of the branches, in place, so that nothing recompiles.

        Raises:
            TypeError: not a number.
            ValueError: not finite.
        """
        self.coefficient.fill_(validation.finite("coefficient", value))

    def strip(self) -> nn.Module:
        """Take every hook off the network and return it, the very object that went in."""
        self._recorder.remove()
        return self.main

    def extra_repr(self) -> str:
        """Return taps, composition and time axis, for printing."""
        return f"taps={list(self.spec.taps)}, combine={self.spec.combine!r}, time_axis={self.time_axis}"

    def _run(self, *inputs: Any, **keywords: Any) -> tuple[Any, list[Tensor]]:
        self._recorder.start()
        try:
            main = self.main(*inputs, **keywords)
            return main, self._recorder.outputs()
        finally:
            self._recorder.stop()

    def _channels(self, sample: Any) -> Mapping[str, int]:
        stated: Mapping[str, int] = getattr(getattr(self.main, "spec", None), "tap_channels", {})
        if sample is None:
            return stated
        modes = [(module, module.training) for module in self.main.modules()]
        self.main.eval()
        try:
            with torch.no_grad():
                main, tapped = self._run(sample)
        finally:
            for module, training in modes:
                module.training = training
        self._check_main(main)
        for tap, x in zip(self.spec.taps, tapped, strict=True):
            self._check_tap(tap, x, main)
        return {tap: x.shape[channel_axis(self.time_axis)] for tap, x in zip(self.spec.taps, tapped, strict=True)}

    def _check_main(self, main: Any) -> None:
        if not isinstance(main, Tensor):
            raise TypeError(f"net must return a tensor of logits, it returned a {type(main).__name__}")
        if main.ndim != 2 or main.shape[1] != self.num_classes:
            raise ValueError(
                f"net must return logits of shape (batch, num_classes) = (batch, {self.num_classes}), "
                f"it returned {tuple(main.shape)}"
            )

    def _check_tap(self, tap: str, x: Tensor, main: Tensor) -> None:
        layout = {0: "(time, batch, channels, ...)", 1: "(batch, time, channels, ...)", None: "(batch, channels, ...)"}
        if x.ndim > channel_axis(self.time_axis) and x.shape[batch_axis(self.time_axis)] == main.shape[0]:
            return
        others = " or ".join(f"time_axis={axis} for {layout[axis]}" for axis in layout if axis != self.time_axis)
        raise ValueError(
            f"tap {tap!r} gave shape {tuple(x.shape)}, which is no {layout[self.time_axis]} with the batch of the main "
            f"logits, {main.shape[0]}, as time_axis={self.time_axis} asks; pass {others}"
        )


def branch_key(tap: str) -> str:
    """Return the name of a tap's branch among the modules: without dots, and not one that ModuleDict uses itself."""
    key = tap.replace(".", "/")
    return f"{key}/" if hasattr(nn.ModuleDict, key) else key


def _linear(channels: int | None, num_classes: int, like: Tensor) -> nn.Linear:
    if channels is None:
        return nn.LazyLinear(num_classes, device=like.device, dtype=like.dtype)
    return nn.Linear(channels, num_classes, device=like.device, dtype=like.dtype)
