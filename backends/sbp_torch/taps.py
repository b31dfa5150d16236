"""Captures what named modules give during one forward pass, by hooks that belong to the one who captures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Recorder:
    """Hooks on named modules that record between :meth:`start` and :meth:`stop` and do nothing otherwise.

    The hooks go in at construction, so that a model compiled later has them in its graph, and stay until
    :meth:`remove`. They are objects, not closures: a copied or unpickled network records for the copied recorder.

    Attributes:
        recording: whether it records now.
        installed: whether the hooks are on the network; a flag, because a compiled forward cannot look at the handles.
    """

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        self.recording = False
        self.installed = True
        self._outputs: dict[str, Tensor] = {}
        self._names = tuple(names)
        self._handles: list[RemovableHandle] = [
            net.get_submodule(name).register_forward_hook(_Hook(self, name)) for name in names
        ]

    def start(self) -> None:
        """Begin to record."""
        self.recording = True

    def outputs(self) -> list[Tensor]:
        """Return what was recorded since :meth:`start`, in the order of the names.

        Raises:
            RuntimeError: a named module did not run.
        """
        missing = [name for name in self._names if name not in self._outputs]
        if missing:
            raise RuntimeError(
                f"tap {missing[0]!r} did not run in this forward pass; tap a module that the network always calls"
            )
        return [self._outputs[name] for name in self._names]

    def stop(self) -> None:
        """Stop recording and let go of what was recorded."""
        self.recording = False
        self._outputs.clear()

    def record(self, name: str, output: Any) -> None:
        """Keep the output of the module ``name``.

        Raises:
            TypeError: it is not a tensor.
            RuntimeError: the module ran before in this forward pass.
        """
        if not isinstance(output, Tensor):
            raise TypeError(
                f"tap {name!r} must give a tensor, it gave a {type(output).__name__}; tap a module that does"
            )
        if name in self._outputs:
            raise RuntimeError(
                f"tap {name!r} ran twice in one forward pass, and only one output can be tapped; "
                "tap a module that runs once, over all time steps"
            )
        self._outputs[name] = output

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self.installed = False


class _Hook:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder = recorder
        self.name = name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.recorder.recording:
            self.recorder.record(self.name, output)
