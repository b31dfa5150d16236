"""Names of PyTorch that it does not promise to keep, all in one place; they hold from 2.7 to 2.15."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import _get_current_dispatch_mode

#: What every batch norm derives from.
BatchNorm = _BatchNorm

#: The attribute of a compiled network that holds what torch.compile was given.
ORIGINAL = "_orig_mod"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def in_transform() -> bool:
    """Say whether torch.func or forward mode is at work; torch.compile traces again when either changes."""
    return torch._C._functorch.maybe_current_level() is not None or torch.autograd.forward_ad._current_level >= 0


def in_dispatch_mode() -> bool:
    """Say whether something looks at every operation: make_fx, a counter of operations, fake tensors."""
    return _get_current_dispatch_mode() is not None


def in_trace() -> bool:
    """Say whether torch.jit.trace is recording, for itself, an ONNX exporter or TensorBoard."""
    return torch._C._get_tracing_state() is not None


def original(net: nn.Module) -> nn.Module:
    """Return what torch.compile was given, or the network itself."""
    return net._orig_mod if isinstance(net, OptimizedModule) else net


def compiled_like(net: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, compiled with the options that a compiled network was compiled with."""
    return cast(Callable[..., Any], cast(OptimizedModule, net).dynamo_ctx(function))


def is_compiled(module: nn.Module) -> bool:
    """Say whether torch.compile returned the module, or ``module.compile()`` was called."""
    return isinstance(module, OptimizedModule) or module._compiled_call_impl is not None


def is_replica(module: nn.Module) -> bool:
    """Say whether DataParallel made the module for one of its devices, for one forward pass."""
    return getattr(module, "_is_replica", False)


def forward_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """Return a module's forward hooks in the order in which they are called."""
    return list(module._forward_hooks.values())


def remove_forward_hooks(module: nn.Module, which: Callable[[Callable[..., Any]], bool]) -> None:
    """Take forward hooks off a module, those on modules that were copied with them too."""
    for key in [key for key, hook in module._forward_hooks.items() if which(hook)]:
        for hooks in (
            module._forward_hooks,
            module._forward_hooks_with_kwargs,
            module._forward_hooks_always_called,
        ):
            hooks.pop(key, None)


def own_forward_hooks(module: nn.Module) -> None:
    """Part a replica's forward hooks from those of the module that it was made of."""
    module._forward_hooks = OrderedDict(module._forward_hooks)
