"""What a tapped block is read out by: the paper's branch, a convolutional one, or one of your own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from sbp_core import validation

#: A branch by name, or a function of (channels, num_classes) that makes one.
Branch = str | Callable[[int, int], nn.Module]

BRANCHES = ("linear", "convolutional")


class Size(NamedTuple):
    """Channels of a tapped output, and its axes of space."""

    channels: int
    space: int


def pool(x: Tensor) -> Tensor:
    """Average ``(items, channels, *space)`` over space, however many axes that has: global average pooling."""
    return x.mean(tuple(range(2, x.ndim))) if x.ndim > 2 else x


class LinearBranch(nn.Linear):
    """Global average pooling and a fully connected layer (Guo et al. 2024, section 4).

    Example:
        >>> import torch
        >>> LinearBranch(8, 10)(torch.rand(3, 8, 4, 4)).shape
        torch.Size([3, 10])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return logits, ``(items, classes)``, of ``(items, channels, *space)``."""
        return functional.linear(pool(input), self.weight, self.bias)


class LazyLinearBranch(nn.LazyLinear):
    """A :class:`LinearBranch` whose channels are those of the first batch."""

    cls_to_become = LinearBranch

    def initialize_parameters(self, input: Tensor) -> None:
        """Take the number of channels from the first batch."""
        super().initialize_parameters(pool(input))

    forward = LinearBranch.forward


class ConvolutionalBranch(nn.Sequential):
    """A small convolutional head: 3-wide convolution, batch norm, ReLU, global average pooling, linear layer.

    One convention for all frameworks: stride 1, padding 1, no bias; batch norm over time, batch and space, epsilon 1e-5
    and momentum 0.1. The parts are ``conv``, ``bn``, ``relu`` and ``linear``.

    Args:
        channels: of the tapped block.
        num_classes: of the logits.
        hidden: channels after the convolution; as many as before it unless given.
        dimensions: axes of space: 1, 2 or 3.

    Raises:
        ValueError: an argument out of range.
        TypeError: one that is not an integer.

    Example:
        >>> import torch
        >>> ConvolutionalBranch(8, 10, hidden=4)(torch.rand(3, 8, 6, 6)).shape
        torch.Size([3, 10])
    """

    def __init__(self, channels: int, num_classes: int, hidden: int | None = None, dimensions: int = 2) -> None:
        if dimensions not in (1, 2, 3):
            raise ValueError(f"dimensions must be 1, 2 or 3, got {dimensions!r}")
        width = validation.count("channels" if hidden is None else "hidden", channels if hidden is None else hidden)
        convolution: type[nn.Module] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        norm: type[nn.Module] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
        super().__init__(
            OrderedDict(
                conv=convolution(channels, width, 3, padding=1, bias=False),
                bn=norm(width),
                relu=nn.ReLU(),
                linear=LinearBranch(width, num_classes),
            )
        )
        self.register_load_state_dict_pre_hook(_named_parts)  # type: ignore[no-untyped-call]


def _named_parts(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    # the parts had numbers once
    for number, name in (("0", "conv"), ("1", "bn"), ("3", "linear")):
        before = f"{prefix}{number}."
        for key in [key for key in state if key.startswith(before)]:
            state[f"{prefix}{name}.{key.removeprefix(before)}"] = state.pop(key)


def check_branch(tap: str, branch: Any) -> None:
    """Raise unless ``branch`` is a name or a function.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor callable, or a module, which would be shared.
    """
    if isinstance(branch, str):
        validation.choice("branch", branch, BRANCHES)
    elif isinstance(branch, nn.Module) or not callable(branch):
        raise TypeError(
            f"branch of tap {tap!r} must be a name or a function of (channels, num_classes) that returns a module, got "
            f"a {type(branch).__name__}"
        )


def make_branch(tap: str, branch: Branch, size: Size | None, num_classes: int, like: Tensor) -> nn.Module:
    """Return the branch of a tap, in the dtype and on the device of ``like``.

    Args:
        tap: for messages.
        branch: which.
        size: of the block's output, or None if it is not known yet; then only the linear branch can be made.
        num_classes: of the logits.
        like: a parameter of the network.

    Raises:
        ValueError: the size is not known, and the branch needs it; a convolution of something without space.
        TypeError: the function returned something other than a module.
    """
    if size is None:
        if branch != "linear":
            raise ValueError(
                f"branch of tap {tap!r} needs the number of channels: pass sample, an input of the network"
            )
        return LazyLinearBranch(num_classes, device=like.device, dtype=like.dtype)
    made: Any
    if branch == "convolutional":
        if size.space not in (1, 2, 3):
            raise ValueError(
                f"branch of tap {tap!r} cannot be 'convolutional': the tap has {size.space} axes of space, and 1, 2 or "
                "3 are wanted; take 'linear'"
            )
        made = ConvolutionalBranch(size.channels, num_classes, dimensions=size.space)
    elif isinstance(branch, str):
        made = LinearBranch(size.channels, num_classes)
    else:
        made = branch(size.channels, num_classes)
    if not isinstance(made, nn.Module):
        raise TypeError(f"branch of tap {tap!r} must return a torch.nn.Module, it returned a {type(made).__name__}")
    return made.to(device=like.device, dtype=like.dtype)


def checked(tap: str, branch: Callable[[Tensor], Any], num_classes: int) -> Callable[[Tensor], Tensor]:
    """Return ``branch``, made to raise a ValueError where it gives something other than ``(items, num_classes)``."""

    def run(items: Tensor) -> Tensor:
        logits = branch(items)
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        if not isinstance(logits, Tensor) or logits.shape != (items.shape[0], num_classes):
            raise ValueError(
                f"branch of tap {tap!r} must return logits of shape (items, num_classes) = "
                f"{(items.shape[0], num_classes)}, time and batch merged into the items; it returned {found}"
            )
        return logits

    return run
