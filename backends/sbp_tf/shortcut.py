"""Branches from tapped blocks straight to the output, beside a network that stays as it is."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import tensorflow as tf

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_tf.modules import ConvolutionalReadout, Readout

#: A branch by name, a function of (channels, num_classes) that makes one, or the branch of each tap.
Branch = Literal["linear", "convolutional"] | Callable[[int, int], Callable[[Any], Any]] | Mapping[str, Any]

_NAMED: dict[str, type[tf.Module]] = {"linear": Readout, "convolutional": ConvolutionalReadout}


@runtime_checkable
class Tappable(Protocol):
    """What :class:`Shortcut` asks of a network. ``ResNet`` has it; a network of your own gets it in a few lines.

    It should be a ``tf.Module``, so that its variables are among the shortcut model's.

    Example:
        >>> import tensorflow as tf
        >>> class Net(tf.Module):
        ...     tap_channels = {"hidden": 8}
        ...
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight, self.head = tf.Variable(tf.ones((4, 8))), Readout(8, 10)
        ...
        ...     def __call__(self, x, training=False, taps=None):
        ...         hidden = tf.nn.relu(x @ self.weight)
        ...         logits = self.head(hidden)
        ...         return logits if taps is None else (logits, {"hidden": hidden})
        >>> model = Shortcut(Net(), taps=["hidden"], num_classes=10)
        >>> tuple(model(tf.ones((3, 2, 4)), training=True).shape)
        (2, 10)
    """

    @property
    def tap_channels(self) -> Mapping[str, int]:
        """Name of each block that can be tapped, and the last axis of its output."""
        ...

    def __call__(self, images: Any, training: bool = False, taps: Sequence[str] | None = None) -> Any:
        """Return logits, ``(batch, classes)``; with ``taps`` also a dictionary with the output of each.

        An output has the shape ``(time, batch, ..., channels)``.
        """
        ...


class Shortcut(tf.Module):
    """A network with a branch from each tapped block to the output (Guo et al. 2024, Eq. 6-10).

    In training it gives ``b_n(x) + lambda * sum_l b_l(x)``, with ``lambda`` the variable ``coefficient``, which
    :class:`~sbp_tf.CoefficientScheduler` moves; otherwise it gives ``b_n(x)``, and the branches do not run. With
    ``combine="losses"`` training gives ``ShortcutOutput(main, branches)``, for :class:`~sbp_tf.ShortcutLoss`.

    The net itself is not changed: ``model.main`` is the object that went in, and :meth:`strip` returns it.

    Args:
        net: the network, a :class:`Tappable`. Its logits are ``(batch, num_classes)``, or those of each step,
            ``(time, batch, num_classes)``; the branches then give those of each step too.
        taps: names of blocks that get a branch each.
        num_classes: logits of a branch, as many as the net's.
        combine: "logits" or "losses".
        branch: "linear", the paper's :class:`~sbp_tf.Readout`; "convolutional", a small head; a function of
            ``(channels, num_classes)`` that returns one of your own, a ``tf.Module`` from ``(time, batch, ...,
            channels)`` to logits of each step, ``(time, batch, num_classes)``, or of all, ``(batch, num_classes)``; or
            a mapping from each tap to such a module.
        coefficient: where the weight of the branches starts; 1 is the paper's plain shortcut.
        dtype: of the branches' variables.
        name: of the module.

    Raises:
        ValueError: a tap that does not exist (those that do are listed), an unknown composition, or an unknown branch.
        TypeError: a net that cannot be tapped (the message says what it lacks), or a branch that cannot be called.

    Example:
        >>> import tensorflow as tf, sbp_tf
        >>> net = sbp_tf.resnet18(num_classes=10, time_steps=2, widths=(4, 4, 8, 8))
        >>> model = Shortcut(net, taps=["layer1", "layer2", "layer3"], num_classes=10)
        >>> tuple(model(tf.ones((2, 8, 8, 3)), training=True).shape), model.strip() is net
        ((2, 10), True)
    """

    def __init__(
        self,
        net: Tappable,
        taps: Sequence[str],
        num_classes: int,
        combine: Literal["logits", "losses"] = "logits",
        *,
        branch: Branch = "linear",
        coefficient: float = 1.0,
        dtype: tf.DType = tf.float32,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        # tf.Module wraps lists that are set on it, so the spec gets a tuple first
        self.spec = ShortcutSpec(taps=taps if isinstance(taps, str) else tuple(taps), combine=combine)  # type: ignore[arg-type]
        self.num_classes = validation.count("num_classes", num_classes)
        if not isinstance(net, Tappable):
            raise TypeError(
                f"net must be tappable, and {type(net).__name__} is not: give it tap_channels, a mapping from the name "
                "of each block to its channels, and __call__(images, training, taps) that returns (logits, outputs) "
                "where taps is given; see sbp_tf.Tappable"
            )
        self.spec.check_taps(net.tap_channels)
        self.main = net
        channels = {tap: net.tap_channels[tap] for tap in self.spec.taps}
        self.branches = _make_branches(branch, channels, num_classes, dtype)
        start = validation.finite("coefficient", coefficient)
        self.coefficient = tf.Variable(start, dtype=tf.float32, trainable=False, name="coefficient")

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor | ShortcutOutput:
        """Return the main logits; in training the composed ones, or all of them for ``combine="losses"``.

        Raises:
            ValueError: the net's logits or a branch's have another shape than the class says, or it left out a tap.
            TypeError: ``training`` is not a bool, or the net did not return a pair.
        """
        if not validation.flag("training", training):
            return self.main(images, training=False)
        main, tapped = self._run(images)
        branches = tuple(tf.cast(self._branch(tap, tapped[tap], main), main.dtype) for tap in self.spec.taps)
        if self.spec.combine == "losses":
            return ShortcutOutput(main, branches)
        return sum_logits(main, branches, tf.cast(self.coefficient, main.dtype))

    def strip(self) -> Tappable:
        """Return the net that went in, as it was."""
        return self.main

    def _branch(self, tap: str, block: tf.Tensor, main: tf.Tensor) -> tf.Tensor:
        logits = self.branches[tap](block)
        if logits.shape.rank == 3 and main.shape.rank == 2:
            logits = tf.reduce_mean(logits, axis=0)
        if not logits.shape.is_compatible_with(main.shape):
            raise ValueError(
                f"branch of tap {tap!r} must give logits as the net's are, {main.shape}, or those of each step where "
                f"the net's are not; it gave {logits.shape}"
            )
        return logits

    def _run(self, images: tf.Tensor) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        result = self.main(images, training=True, taps=self.spec.taps)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"net must return (logits, outputs) where taps is given, got {type(result).__name__}")
        main, tapped = result
        missing = [tap for tap in self.spec.taps if tap not in tapped]
        if missing:
            raise ValueError(f"net must return the output of every tap; it left out {', '.join(map(repr, missing))}")
        if main.shape.rank not in (2, 3) or main.shape[-1] != self.num_classes:
            raise ValueError(
                f"net must give logits (batch, {self.num_classes}), or those of each step, (time, batch, "
                f"{self.num_classes}); num_classes is {self.num_classes}, got {main.shape}"
            )
        return main, tapped


def _make_branches(
    branch: Branch, channels: Mapping[str, int], num_classes: int, dtype: tf.DType
) -> dict[str, Callable[[Any], Any]]:
    if isinstance(branch, str):
        kind = _NAMED[validation.choice("branch", branch, _NAMED)]
        return {
            tap: kind(size, num_classes, per_step=True, dtype=dtype, name=f"branch_{tap}")
            for tap, size in channels.items()
        }
    if isinstance(branch, tf.Module) or not (callable(branch) or isinstance(branch, Mapping)):
        raise TypeError(
            f"branch must be {' or '.join(map(repr, _NAMED))}, a function of (channels, num_classes) that returns a "
            f"module, or a mapping from each tap to its module; got {branch!r}"
        )
    if isinstance(branch, Mapping):
        if set(branch) != set(channels):
            raise ValueError(f"branch must have the taps {sorted(channels)} as its keys, got {sorted(branch)}")
        made = {tap: branch[tap] for tap in channels}
    else:
        made = {tap: branch(size, num_classes) for tap, size in channels.items()}
    for tap, module in made.items():
        if not isinstance(module, tf.Module):
            raise TypeError(f"branch of tap {tap!r} must be a tf.Module, got {module!r}")
    return made
