"""Says when a neuron must be plain tensor operations, because something records them to run elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbp_torch import private


def is_recorded(x: Tensor) -> bool:
    """Say whether what is computed of ``x`` is being exported or traced, or is no plain tensor's.

    torch.export, both ONNX exporters, torch.jit.trace (and so TensorBoard's graph), make_fx, fake and other tensors
    that dispatch by themselves: what they record must run where sbp is not installed. torch.compile is none of them.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return private.in_trace() or private.in_dispatch_mode() or type(x) not in (Tensor, nn.Parameter)
