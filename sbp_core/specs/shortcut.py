"""Where the branches tap a network, and how their logits join the main ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, Literal, get_args

from sbp_core import validation
from sbp_core.specs.base import Spec

#: How branches join the main output: their logits are summed, or their losses.
Combine = Literal["logits", "losses"]


@dataclass(frozen=True, kw_only=True)
class ShortcutSpec(Spec):
    """Branches of a network, each "global average pooling and a fully connected layer" (Guo et al. 2024, section 4).

    Attributes:
        taps: names of the blocks to tap, at least one.
        combine: "logits" adds the branches' logits to the main ones (the paper's Eq. 6-10); "losses" keeps them apart,
            each for a loss of its own.

    Raises:
        ValueError: no tap, a tap named twice, or an unknown composition.
        TypeError: taps that are not names.
    """

    kind: ClassVar[str] = "shortcut"
    taps: tuple[str, ...]
    combine: Combine = "logits"

    def __post_init__(self) -> None:
        if isinstance(self.taps, str) or not isinstance(self.taps, Sequence):
            raise TypeError(f"taps must be a sequence of names, got {self.taps!r}")
        for tap in self.taps:
            if not isinstance(tap, str):
                raise TypeError(f"taps must hold names, got {tap!r} of type {type(tap).__name__}")
        if not self.taps:
            raise ValueError("taps must name at least one block, got none")
        if len(set(self.taps)) != len(self.taps):
            raise ValueError(f"taps must not repeat a name, got {tuple(self.taps)!r}")
        self._set("taps", tuple(self.taps))
        validation.choice("combine", self.combine, get_args(Combine))

    def check_taps(self, available: Iterable[str]) -> None:
        """Raise unless every tap is one of ``available``.

        Raises:
            ValueError: a tap that does not exist; the message suggests near names and lists those that do.

        Example:
            >>> ShortcutSpec(taps=("layr1",)).check_taps(["stem", "layer1"])
            Traceback (most recent call last):
            ...
            ValueError: tap 'layr1' does not exist; did you mean 'layer1'? The network has: stem, layer1
        """
        names = list(available)
        for tap in self.taps:
            if tap not in names:
                near = get_close_matches(tap, names, n=3)
                hint = f" did you mean {' or '.join(map(repr, near))}?" if near else ""
                raise ValueError(f"tap {tap!r} does not exist;{hint} The network has: {', '.join(names)}")
