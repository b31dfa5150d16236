"""The step function with its surrogate gradient."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from sbp_core.inputs import check_floating
from sbp_core.specs.surrogates import Surrogate, as_surrogate
from sbp_torch import private


class _Spike(torch.autograd.Function):
    # no jvp method: torch.compile refuses functions that have one
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, surrogate: Surrogate, inclusive: bool) -> Tensor:
        return (x >= 0 if inclusive else x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate, bool], output: Tensor) -> None:
        x, ctx.surrogate, _ = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.surrogate.derivative(x, xp), None, None


def spike(x: Tensor, surrogate: Surrogate | str = "rectangle", *, inclusive: bool = False) -> Tensor:
    """Fire where ``x > 0`` (``>=`` if inclusive); the gradient is the surrogate's (Guo et al. 2024, Eq. 2 and 5).

    Args:
        x: potential minus threshold, floating, any shape.
        surrogate: a surrogate, or the name of a family.
        inclusive: fire at 0 too.

    Returns:
        1 and 0 in the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: an unknown surrogate.

    Example:
        >>> x = torch.tensor([-0.25, 0.0, 2.0], requires_grad=True)
        >>> spikes = spike(x, "triangle")
        >>> spikes.sum().backward()
        >>> spikes.tolist(), x.grad.tolist()
        ([0.0, 0.0, 1.0], [0.75, 1.0, 0.0])
    """
    check_floating("x", str(x.dtype))
    return fire(x, as_surrogate(surrogate), inclusive)


def fire(x: Tensor, surrogate: Surrogate, inclusive: bool) -> Tensor:
    """Fire as :func:`spike` does, unchecked."""
    if private.in_trace():
        return _traced(x, surrogate, inclusive)
    spikes: Tensor = _Spike.apply(x, surrogate, inclusive)  # type: ignore[no-untyped-call]
    return spikes


def _traced(x: Tensor, surrogate: Surrogate, inclusive: bool) -> Tensor:
    # a trace cannot be saved with a Function in it: the same value and gradient by operations alone
    spikes = (x >= 0 if inclusive else x > 0).to(x.dtype)
    if torch.onnx.is_in_onnx_export():  # for inference
        return spikes
    slope: Tensor = surrogate.derivative(x.detach(), xp)
    return spikes + slope * (x - x.detach())
