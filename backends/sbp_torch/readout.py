"""From a block's output to logits: the head of a network and each branch of a shortcut read out alike."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

TimeAxis = Literal[0, 1] | None


def batch_axis(time_axis: TimeAxis) -> int:
    """Return where the batch is, given where time is."""
    return 1 if time_axis == 0 else 0


def channel_axis(time_axis: TimeAxis) -> int:
    """Return where the channels are, given where time is."""
    return 1 if time_axis is None else 2


def read_out(linear: nn.Linear, x: Tensor, time_axis: TimeAxis) -> Tensor:
    """Average over space, apply ``linear`` at each step, average over time (Guo et al. 2024, section 4).

    Args:
        linear: from channels to classes.
        x: ``(time, batch, channels, *space)``, ``(batch, time, channels, *space)`` or ``(batch, channels, *space)``,
            with any number of axes of space, none included.
        time_axis: which of the three: 0, 1 or None.

    Returns:
        Logits, ``(batch, classes)``.
    """
    space = tuple(range(channel_axis(time_axis) + 1, x.ndim))
    logits: Tensor = linear(x.mean(space) if space else x)
    return logits if time_axis is None else logits.mean(time_axis)
