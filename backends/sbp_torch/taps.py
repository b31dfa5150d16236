"""Captures what named modules give during one forward pass, by hooks that belong to the one who captures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.utils.hooks import RemovableHandle

#: Which part of what a module gives: an index, a key, or a function of all of it; None for all of it.
Select = int | str | Callable[[Any], Tensor] | None


class Recorder:
    """Hooks on named modules that record between :meth:`start` and :meth:`stop` and do nothing otherwise.

    The hooks go in at construction, so that a model compiled later has them in its graph, and stay until
    :meth:`remove`. They are objects, not closures: a copied or unpickled network records for the copied recorder. What
    a checkpoint recomputes in the backward pass is not recorded, as that comes after :meth:`stop`.

    Attributes:
        recording: whether it records now.
        installed: whether the hooks are on the network; a flag, because a compiled forward cannot look at the handles.
    """

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        self.recording = False
        self.installed = True
        self._differentiates = False
        self._outputs: dict[str, list[Any]] = {}
        self._names = tuple(names)
        blocks = named_blocks(net)
        self._handles: list[RemovableHandle] = [blocks[name].register_forward_hook(_Hook(self, name)) for name in names]

    def start(self) -> None:
        """Begin to record."""
        self.recording = True
        self._differentiates = torch.is_grad_enabled()

    def outputs(self, net: nn.Module) -> list[list[Any]]:
        """Return what was recorded since :meth:`start`, in the order of the names: the outputs of each call.

        Args:
            net: the network, to say what is wrong.

        Raises:
            RuntimeError: a named module did not run.
        """
        missing = [name for name in self._names if name not in self._outputs]
        if missing:
            raise RuntimeError(self._why_missing(missing[0], net))
        return [self._outputs[name] for name in self._names]

    def stop(self) -> None:
        """Stop recording and let go of what was recorded."""
        self.recording = False
        self._outputs.clear()

    def record(self, name: str, output: Any) -> None:
        """Keep an output of the module ``name``.

        Raises:
            RuntimeError: it was computed without gradient although the forward pass has one.
        """
        if self._differentiates and not torch.is_grad_enabled():
            raise RuntimeError(
                f"tap {name!r} ran without gradient, under torch.no_grad or in a reentrant checkpoint, so its branch "
                "would train nothing before it; pass use_reentrant=False to checkpoint, or tap another module"
            )
        self._outputs.setdefault(name, []).append(output)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self.installed = False

    def _why_missing(self, name: str, net: nn.Module) -> str:
        blocks = named_blocks(net)
        block = blocks.get(name)
        hooks = () if block is None else block._forward_hooks.values()
        if not any(isinstance(hook, _Hook) and hook.recorder is self for hook in hooks):
            return (
                f"tap {name!r} is no longer the module that was wrapped: something replaced it, as conversion to "
                "SyncBatchNorm replaces batch norms; convert the network first and wrap it then"
            )
        message = f"tap {name!r} did not run in this forward pass; tap a module that the network always calls"
        if any(isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for m in net.modules()):
            message += ". If a part was compiled and run before it was wrapped, call torch.compiler.reset() once"
        return message


class _Hook:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder = recorder
        self.name = name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.recorder.recording:
            self.recorder.record(self.name, output)


def named_blocks(net: nn.Module) -> dict[str, nn.Module]:
    """Return the modules below ``net`` by path, the paths as if nothing were compiled.

    Example:
        >>> list(named_blocks(torch.compile(nn.Sequential(nn.Linear(2, 2)))))
        ['0']
    """
    blocks: dict[str, nn.Module] = {}
    for path, module in net.named_modules():
        name = ".".join(part for part in path.split(".") if part != "_orig_mod")
        if name:
            blocks.setdefault(name, module)
    return blocks


def part(owner: str, value: Any, select: Select, option: str) -> Tensor:
    """Return the tensor that ``select`` takes from what a module gave.

    Args:
        owner: whose output it is, for messages.
        value: what the module gave.
        select: which part of it.
        option: the name of the argument that says so, for messages.

    Raises:
        TypeError: the part is not a tensor, or a tensor is to be indexed.
        ValueError: there is no such part.

    Example:
        >>> part("tap 'lif'", (torch.ones(2), None), 0, "select").tolist()
        [1.0, 1.0]
    """
    chosen = value
    if isinstance(select, int | str):
        if not isinstance(value, Sequence | Mapping):
            raise TypeError(
                f"{option}={select!r} takes a part of a tuple, list or mapping, but {owner} gave a "
                f"{type(value).__name__}; pass {option}=None where it gives a tensor"
            )
        try:
            chosen = value[select]  # type: ignore[index]
        except (IndexError, KeyError, TypeError):
            has = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else f"{len(value)} parts"
            raise ValueError(
                f"{option}={select!r} does not exist: {owner} gave a {type(value).__name__} of {has}"
            ) from None
    elif select is not None:
        chosen = select(value)
    if not isinstance(chosen, Tensor):
        source = "gave" if select is None else f"with {option}={select!r} gave"
        raise TypeError(
            f"{owner} must give a tensor, it {source} a {type(chosen).__name__}; say with {option} which part is meant"
        )
    return chosen


def replaced(value: Any, select: int | str | None, tensor: Any) -> Any:
    """Return ``value`` with ``tensor`` in place of the selected part; ``value`` itself is left as it is.

    Example:
        >>> replaced((1, 2), 0, 3)
        (3, 2)
    """
    if select is None:
        return tensor
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        changed[select] = tensor
        return changed
    items = list(value)
    items[select] = tensor  # type: ignore[index]
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def of_each(name: str, given: Any, taps: Sequence[str], default: Any) -> dict[str, Any]:
    """Return tap to value, from one value for all taps or from a mapping; taps left out have the default.

    Raises:
        ValueError: the mapping names something else than taps.

    Example:
        >>> of_each("channels", {"a": "last"}, ["a", "b"], "first")
        {'a': 'last', 'b': 'first'}
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(taps, given)
    unknown = [key for key in given if key not in taps]
    if unknown:
        raise ValueError(f"{name} must be given for taps, {', '.join(map(repr, taps))}; got {unknown[0]!r}")
    return {tap: given.get(tap, default) for tap in taps}


def check_select(name: str, select: Any, or_function: bool) -> None:
    """Raise unless ``select`` says which part of an output is meant.

    Raises:
        TypeError: it is of another type.
    """
    if select is None or (isinstance(select, int | str) and not isinstance(select, bool)):
        return
    if not (or_function and callable(select)):
        kinds = "an index, a key, a function or None" if or_function else "an index, a key or None"
        raise TypeError(f"{name} must be {kinds}, got {select!r} of type {type(select).__name__}")
