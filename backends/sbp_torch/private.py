"""Names of PyTorch that it does not promise to keep, all in one place; they hold from 2.7 to 2.15."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode


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
