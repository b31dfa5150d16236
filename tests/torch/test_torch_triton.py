"""The Triton kernels, by Triton's interpreter on the CPU, equal tensor operations; for CUDA they compile.

The interpreter must be switched on before Triton is imported, so it runs in a process of its own. Nothing here says how
fast they are.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from sbp_core import LIFSpec
from sbp_torch.kernels import triton_loops
from sbp_torch.kernels import triton_source as source_of
from sbp_torch.kernels.source import Variant

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

INTERPRETED = """
import json, sys
import torch
from sbp_core import LIFSpec, LIFState
from sbp_core.specs.surrogates import FAMILIES
from sbp_torch import lif
from sbp_torch.kernels import fused, triton_loops

fused.ENGINES = (triton_loops,)

def results(spec, x, state, decay, implementation):
    output, final = lif(x, spec, state, decay=decay, implementation=implementation)
    outputs = [output, *(part for part in final if part is not None)]
    inputs = [value for value in (x, decay, *(state or ())) if value is not None]
    generator = torch.Generator().manual_seed(7)
    given = [torch.randn(value.shape, generator=generator).to(value.dtype) for value in outputs]
    return outputs, torch.autograd.grad(outputs, inputs, given, allow_unused=True)

def off(got, want):
    want = torch.zeros_like(got) if want is None else want
    return ((got.double() - want.double()).abs().max() / want.abs().max().double().clamp_min(1e-3)).item()

found = []
for index, family in enumerate(FAMILIES):
    spec = LIFSpec(
        decay=0.7, threshold=0.9, rest=0.1, reset_value=-0.2,
        reset=("hard", "soft", "none")[index % 3],
        reset_timing=("now", "next")[index // 3 % 2],
        output_delay=(0, 1)[index % 2],
        detach_reset=index % 4 == 1,
        synaptic_decay=0.4 if index % 3 == 1 else None,
        learn_decay=index % 5 == 2,
        input_gain="complement" if index % 5 == 2 else 0.8,
        inclusive=index % 4 == 2,
        surrogate=family,
    )
    dtype = (torch.float64, torch.float32, torch.float16, torch.bfloat16)[index % 4]
    steps, with_state = (3, 8, 19)[index % 3], index % 2 == 0
    torch.manual_seed(index)
    x = (torch.randn(steps, 3, 100) + 0.5).to(dtype).requires_grad_()
    state = LIFState(**{name: torch.rand(3, 100).to(dtype).requires_grad_() for name in spec.state_parts})
    wide = torch.promote_types(dtype, torch.float32)
    decay = torch.tensor(0.6, dtype=wide, requires_grad=True) if spec.learn_decay else None
    arguments = (spec, x, state if with_state else None, decay)
    (outputs, gradients), (looped, expected) = results(*arguments, "fused"), results(*arguments, "loop")
    found.append({
        "family": family, "dtype": str(dtype), "same": torch.equal(outputs[0], looped[0]),
        "off": max(map(off, (*outputs, *gradients), (*looped, *expected))),
    })
print(json.dumps(found))
"""

COMPILED = """
import inspect, json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sbp_core import LIFSpec
from sbp_torch.kernels.source import Variant
from sbp_torch.kernels import triton_loops

def signature(kernel, stored, real):
    types = {}
    for name in inspect.signature(kernel.fn).parameters:
        if name in ("REAL", "BLOCK"):
            types[name] = "constexpr"
        elif name in ("neurons", "steps", "row"):
            types[name] = "i32"
        else:
            types[name] = "*" + (real if name.startswith(("checkpoints", "grad_decay", "decay")) else stored)
    return types

found = []
for spec, variant, stored, chunk in (
    (LIFSpec(), Variant(), "fp32", 4),
    (LIFSpec.parametric(surrogate="tanh", synaptic_decay=0.5), Variant(fresh=False, final=True), "bf16", 8),
):
    for kernel in triton_loops.compiled(spec, variant, chunk):
        constants = {"REAL": triton.language.float32, "BLOCK": triton_loops.BLOCK}
        source = ASTSource(fn=kernel, signature=signature(kernel, stored, "fp32"), constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
        found.append({"machine code": len(built.asm["cubin"]), "joined": "fma.rn.f32" in built.asm["ptx"]})
print(json.dumps(found))
"""


def run(script, **environment):
    """Return what a script prints, in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@needs_triton
def test_interpreted_kernels_equal_tensor_operations_over_the_neuron_family():
    # bfloat16: the interpreter cuts off where a device rounds, at most a unit in the last place
    allowed = {"torch.float64": 1e-13, "torch.float32": 1e-6, "torch.float16": 2.0**-10, "torch.bfloat16": 2.0**-6}
    for case in run(INTERPRETED, TRITON_INTERPRET="1"):
        assert case["same"], case
        assert case["off"] <= allowed[case["dtype"]], case


@needs_triton
def test_kernels_compile_for_a_device_without_joining_roundings():
    for built in run(COMPILED, TRITON_INTERPRET="0"):
        assert built["machine code"] > 0
        assert not built["joined"], built


def test_a_kernel_holds_as_many_steps_in_registers_as_it_is_told():
    source = source_of.generate(LIFSpec(), Variant(), 3)
    assert "potential_2" in source.backward
    assert "potential_3" not in source.backward
    assert "decay" not in source.forward.partition("\n")[2]


def test_without_cuda_or_the_interpreter_triton_takes_nothing(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if not torch.cuda.is_available():
        assert not triton_loops.supports(torch.zeros(2, 3), "input")
    assert not triton_loops.supports(torch.zeros(2, 3), "bits")
