"""What a trainer is told: the network, and how it is trained."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sbp_core import LossSpec, NetworkSpec, validation
from sbp_core.specs.branches import BranchName
from sbp_lab.optimizers import AdamW, Optimizer

#: What the network computes in; weights, optimiser and loss are float32.
Precision = Literal["float32", "bfloat16", "float16"]

#: Where the factor of the loss starts with float16, and after how many good steps it doubles; a bad one halves it.
FIRST_SCALE = 2.0**15
SCALE_GROWS_AFTER = 2000


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How a network is trained.

    Attributes:
        taps: parts of the network that get a branch; none for a network without.
        branch: what a branch is.
        loss: how branches join the main output, and what the logits are held to.
        optimizer: AdamW or SGD.
        clip_norm: largest L2 norm of the gradient of all weights together: ``g * min(1, clip_norm / norm)``.
        accumulate: parts that a batch is computed in, one after the other, their gradients averaged.
        ema: decay of the running mean of weights and statistics: ``mean = ema * mean + (1 - ema) * weight``.
        precision: what the network computes in.
        compile: PyTorch: torch.compile; Keras: XLA. JAX always compiles.
        events: whether images are event frames, (batch, time, height, width, channels).
        seed: of dropout, and of the first weights of a network that comes without.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.

    Example:
        >>> TrainerOptions(taps=("layer1",), clip_norm=1.0).accumulate
        1
        >>> TrainerOptions(precision="float8")
        Traceback (most recent call last):
        ...
        ValueError: precision must be one of 'float32', 'bfloat16', 'float16'; got 'float8'
    """

    taps: tuple[str, ...] = ()
    branch: BranchName = "linear"
    loss: LossSpec = LossSpec(combine="logits")
    optimizer: Optimizer = AdamW()
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    precision: Precision = "float32"
    compile: bool = False
    events: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))
        validation.choice("branch", self.branch, get_args(BranchName))
        validation.choice("precision", self.precision, get_args(Precision))
        validation.count("accumulate", self.accumulate)
        validation.count("seed", self.seed, 0)
        validation.flag("compile", self.compile)
        validation.flag("events", self.events)
        if self.clip_norm is not None:
            validation.positive("clip_norm", self.clip_norm)
        if self.ema is not None and not 0.0 <= validation.finite("ema", self.ema) < 1.0:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema!r}")
        for name, kind in (("loss", LossSpec), ("optimizer", Optimizer)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {value!r} of type {type(value).__name__}")

    def parts(self, batch: int) -> int:
        """Return the samples of each part of a batch.

        Raises:
            ValueError: the batch cannot be divided so.
        """
        if batch % self.accumulate:
            raise ValueError(f"accumulate must divide the batch of {batch} samples, got {self.accumulate}")
        return batch // self.accumulate


@dataclass(frozen=True, kw_only=True)
class OwnNetwork:
    """A network of the user's own: a function that makes it.

    The function is called with those of ``num_classes``, ``in_channels``, ``size``, ``time_steps`` and, in JAX,
    ``rngs`` that it has as arguments. It returns a module of the framework, or a NetworkSpec. The module gets the
    images as its framework has them: PyTorch ``(batch, channels, height, width)``, else channels last; event frames
    with time in front, in Keras behind the batch.

    Attributes:
        function: "module:function"; modules in the working folder are found.
        num_classes: classes of the data.
        in_channels: channels of the data.
        size: height and width of the data.
        time_steps: how often an image is shown, or frames of a recording.

    Raises:
        ValueError: not such a name.
    """

    function: str
    num_classes: int
    in_channels: int
    size: tuple[int, int]
    time_steps: int = 4

    def __post_init__(self) -> None:
        module, _, name = self.function.partition(":")
        if not (name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise ValueError(f"net must be a name as 'module:function', got {self.function!r}")

    def make(self, **more: Any) -> Any:
        """Call the function.

        Args:
            **more: what it may take besides.

        Raises:
            ValueError: there is no such module or function, or the function needs what is not given.
            TypeError: it is no function, or it returns nothing.

        Example:
            >>> own = OwnNetwork(function="sbp_core:resnet18_spec", num_classes=4, in_channels=1, size=(8, 8))
            >>> own.make().kind
            'resnet'
        """
        given = {name: getattr(self, name) for name in ("num_classes", "in_channels", "size", "time_steps")} | more
        function = self._function()
        parameters = inspect.signature(function).parameters.values()
        named = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
        lacking = [
            each.name
            for each in parameters
            if each.name in named and each.default is each.empty and each.name not in given
        ]
        if lacking:
            raise ValueError(
                f"net={self.function!r} must need no other arguments than {', '.join(given)}; it needs {lacking[0]!r}"
            )
        made = function(**{name: value for name, value in given.items() if name in named})
        if made is None:
            raise TypeError(f"net={self.function!r} must return a network, it returned None")
        return made

    def takes(self, argument: str) -> bool:
        """Return whether the function has an argument of that name.

        Raises:
            ValueError: there is no such module or function.
        """
        return argument in inspect.signature(self._function()).parameters

    def _function(self) -> Any:
        module, _, name = self.function.partition(":")
        here = os.getcwd()  # noqa: PTH109
        sys.path.insert(0, here)
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not (module + ".").startswith(error.name + "."):
                raise
            raise ValueError(
                f"net={self.function!r} must name a module that Python finds; there is no {error.name!r} in {here} or "
                "among what is installed"
            ) from None
        finally:
            sys.path.remove(here)
        if not hasattr(found, name):
            raise ValueError(f"net={self.function!r} must name a function of {found.__file__}, which has no {name!r}")
        function = getattr(found, name)
        if not callable(function):
            raise TypeError(f"net={self.function!r} must name a function, it is a {type(function).__name__}")
        return function


Network = NetworkSpec | OwnNetwork
