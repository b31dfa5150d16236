"""Captures what named modules give during one forward pass, by hooks that belong to the one who captures."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sbp_core.selection import Select, part
from sbp_core.taps import Main, TapLayout, TimeAxis, same_shape, several_calls
from sbp_torch import private


class Reading(NamedTuple):
    """A tapped output, ready for its branch.

    Attributes:
        items: ``(items, channels, *space)``, time and batch merged into the items.
        leading: their sizes, as they lay; the batch alone where there is no time.
        time: which of them is time.
        form: of the main logits.
    """

    items: Tensor
    leading: tuple[int, ...]
    time: int | None
    form: Main

    def as_main(self, logits: Tensor) -> Tensor:
        """Return a branch's logits of the items in the form of the main ones."""
        if self.time is None:
            return logits
        each = logits.view(*self.leading, logits.shape[-1])
        if self.form.form == "mean":
            return each.mean(self.time)
        return each if self.form.form == "steps" else logits


class Recorder:
    """Hooks on named modules that record between :meth:`start` and :meth:`stop` and do nothing otherwise.

    The hooks go in at construction, so that a model compiled later has them in its graph, and stay until
    :meth:`remove`. A module that is put in a named one's place later, or round it, is what is recorded then:
    :meth:`follow`. The hooks are objects, not closures: a copied or unpickled network records for the copied recorder.
    What a checkpoint recomputes in the backward pass is not recorded, as that comes after :meth:`stop`.

    Attributes:
        recording: whether it records now.
        installed: whether the hooks are on the network.

    Raises:
        RuntimeError: no module of that name.
    """

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        self.recording = False
        self.installed = True
        self._differentiates = False
        self._outputs: dict[str, list[Any]] = {}
        self._hooked: dict[str, nn.Module] = {}
        self._owner: weakref.ref[object] | None = None
        self._names = tuple(names)
        for name in self._names:
            self._hook(net, name)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_owner": None}

    @property
    def owned(self) -> bool:
        """Whether the one who captures is still there."""
        return self._owner is not None and self._owner() is not None

    def belongs_to(self, owner: object) -> None:
        """Say who captures; it is not kept alive."""
        self._owner = weakref.ref(owner)

    def follow(self, net: nn.Module) -> None:
        """See that the hooks are on what is at the named paths now, and see its output last.

        Raises:
            RuntimeError: a path leads to no module any more.
        """
        for name in self._names:
            replaced = find(net, name) is not self._hooked[name]
            if replaced or not (torch.compiler.is_compiling() or self._sees_all(name)):
                self._move(net, name)

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
            message = f"tap {missing[0]!r} did not run in this forward pass; tap a module that the network always calls"
            if any(private.is_compiled(module) for module in net.modules()):
                message += ". If a part was compiled and run before it was wrapped, call torch.compiler.reset() once"
            raise RuntimeError(message)
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

    def remove(self, net: nn.Module) -> None:
        """Take the hooks off, wherever in the network they are by now."""
        for module in (*net.modules(), *self._hooked.values()):
            self._unhook(module)
        self.installed = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _move(self, net: nn.Module, name: str) -> None:
        self._unhook(self._hooked[name], name)
        self._hook(net, name)

    def _hook(self, net: nn.Module, name: str) -> None:
        module = find(net, name)
        if module is None:
            raise RuntimeError(
                f"tap {name!r} leads to no module any more: the network was changed after it was wrapped; put what is "
                "new into a module in the same place, or wrap the network again"
            )
        # conversions, as torch.ao's, carry hooks over to the module that they put in
        self._unhook(module, name)
        module.register_forward_hook(_Hook(self, name))
        self._hooked[name] = module

    def _unhook(self, module: nn.Module, name: str | None = None) -> None:
        private.remove_forward_hooks(
            module, lambda hook: isinstance(hook, _Hook) and hook.recorder is self and name in (None, hook.name)
        )

    def _sees_all(self, name: str) -> bool:
        # a hook may change the output, so ours come after any other
        hooks = [isinstance(hook, _Hook) for hook in private.forward_hooks(self._hooked[name])]
        return all(hooks[hooks.index(True) :]) if True in hooks else False


class _Hook:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder = recorder
        self.name = name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.recorder.recording:
            self.recorder.record(self.name, output)


def release(net: nn.Module) -> None:
    """Take off the hooks that were left on a network by those who are gone.

    Raises:
        ValueError: somebody captures it still.
    """
    for module in net.modules():
        for hook in private.forward_hooks(module):
            if isinstance(hook, _Hook) and hook.recorder.owned:
                raise ValueError(
                    "net is wrapped in a Shortcut already, whose hooks are on it; take that off first, net = "
                    "other.strip(), or give all taps to one Shortcut"
                )
        private.remove_forward_hooks(module, lambda hook: isinstance(hook, _Hook))


def of_replica(net: nn.Module, names: Sequence[str]) -> Recorder:
    """Return a recorder for a replica that DataParallel made, whose modules share their hooks with the original's."""
    for name in names:
        module = find(net, name)
        if module is not None:
            private.own_forward_hooks(module)
            private.remove_forward_hooks(module, lambda hook: isinstance(hook, _Hook))
    return Recorder(net, names)


def find(net: nn.Module, name: str) -> nn.Module | None:
    """Return the module at a path, as if nothing were compiled; None if there is none.

    Example:
        >>> find(nn.Sequential(nn.Linear(2, 2)), "0")
        Linear(in_features=2, out_features=2, bias=True)
    """
    module: Any = private.original(net)
    for attribute in name.split("."):
        module = getattr(module, attribute, None)
        if not isinstance(module, nn.Module):
            return None
    found: nn.Module = module
    return found


def named_blocks(net: nn.Module) -> dict[str, nn.Module]:
    """Return the modules below ``net`` by path, the paths as if nothing were compiled.

    Example:
        >>> list(named_blocks(torch.compile(nn.Sequential(nn.Linear(2, 2)))))
        ['0']
    """
    blocks: dict[str, nn.Module] = {}
    for path, module in net.named_modules():
        name = ".".join(part for part in path.split(".") if part != private.ORIGINAL)
        if name:
            blocks.setdefault(name, module)
    return blocks


def call(net: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """Return what ``net`` gives, its hooks called even if it was compiled before they were put on.

    torch.compile does not look for new hooks on what it has compiled; so the network is compiled behind another frame,
    with the options it was compiled with. Inside a larger compilation it is traced afresh anyway.
    """
    if not torch.compiler.is_compiling() and private.original(net) is not net:
        return private.compiled_like(net, _Fresh(private.original(net)).run)(*inputs, **keywords)
    return net(*inputs, **keywords)


class _Fresh:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def run(self, *inputs: Any, **keywords: Any) -> Any:
        return self.net(*inputs, **keywords)


def gather(tap: str, outputs: Sequence[Any], select: Select, time_axis: TimeAxis) -> Tensor:
    """Return a tap's tensor from the outputs of its calls: the only one, or all stacked along a leading axis of time.

    Raises:
        RuntimeError: several calls, where they are not the steps.
        TypeError: a part that is no tensor.
        ValueError: no such part, or calls that gave different shapes.
    """
    parts: list[Tensor] = [part(f"tap {tap!r}", output, select, "select", Tensor, noun="tensor") for output in outputs]
    if time_axis == "calls":
        same_shape(tap, [x.shape for x in parts])
        return torch.stack(parts)
    if len(parts) > 1:
        raise RuntimeError(several_calls(tap, len(parts), time_axis))
    return parts[0]


def read(tap: str, x: Tensor, layout: TapLayout, main: Tensor, num_classes: int) -> Reading:
    """Return a tapped output, checked, as its branch takes it.

    Args:
        tap: its name, for messages.
        x: the output; of calls, stacked.
        layout: how it lies.
        main: the main logits.
        num_classes: classes that they must have.

    Raises:
        ValueError: the logits are none, or the output does not lie so or does not fit them.
    """
    form = layout.check_main(main.shape, num_classes, items=x.shape[0] if x.ndim else None)
    axes = layout.check_tap(tap, x.shape, form)
    leading = (0,) if axes.time is None else (0, 1)
    x = x.reshape(cast(tuple[int, ...], layout.split(x.shape))).permute(*leading, axes.channels, *axes.space)
    if axes.time is None:
        return Reading(x, (x.shape[0],), None, form)
    return Reading(x.flatten(0, 1), (x.shape[0], x.shape[1]), axes.time, form)
