"""What a neuron does must not change with the size of its input: in place, exported and traced, above and below."""

import io
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import sbp_torch
from sbp_core import LIFSpec, Surrogate
from sbp_torch import LIF, implementation_for, lif
from sbp_torch.kernels import fused

BELOW, ABOVE = (2, 3, 8, 4, 4), (2, 4, 16, 16, 24)
SIZES = {"below": BELOW, "above": ABOVE}
sizes = pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)


def drawn(shape, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), **options) * 1.5


def test_the_two_sizes_are_on_both_sides_of_the_switch():
    assert [implementation_for(drawn(shape)) for shape in SIZES.values()] == ["loop", "fused"]


IN_PLACE = {
    "add": lambda out, x: out.add_(x),
    "relu": lambda out, x: nn.ReLU(inplace=True)(out),
    "dropout": lambda out, x: nn.functional.dropout(out, 0.0, inplace=True).mul_(1.0),
    "index": lambda out, x: out.index_fill_(1, torch.tensor([0]), 0.5),
    "slice": lambda out, x: out[0].zero_(),
    "view": lambda out, x: out.flatten(0, 1).mul_(2.0),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "batch first"])
@pytest.mark.parametrize("operation", IN_PLACE)
@sizes
def test_the_output_may_be_changed_in_place(shape, operation, layout):
    def gradient(implementation, in_place):
        x = drawn(shape)
        if layout == "channels last":
            x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        x.requires_grad_()
        out, state = lif(x, implementation=implementation, time_axis=int(layout == "batch first"))
        if not in_place:
            out = out.clone()
            state = state._replace(potential=state.potential.clone())
        IN_PLACE[operation](out, 0.5 * x.detach())
        state.potential.mul_(0.5)
        ((out**2).sum() + state.potential.sum()).backward()
        return x.grad

    torch.testing.assert_close(gradient("auto", in_place=True), gradient("loop", in_place=False))


class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.lif, self.head = (
            nn.Conv2d(channels, channels, 3, padding=1),
            LIF(threshold=0.2),
            nn.Linear(channels, 3),
        )

    def forward(self, x):
        y = self.lif(self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
        return self.head(y.mean((3, 4))).mean(0)


def network(shape):
    torch.manual_seed(1)
    return Net(shape[2]).eval(), drawn(shape)


LOADS = """
import io, sys, torch
program = torch.export.load(sys.argv[1])
x, expected = torch.load(sys.argv[2])
torch.testing.assert_close(program.module()(x), expected)
assert "sbp_torch" not in sys.modules
"""


@sizes
def test_an_exported_program_runs_where_sbp_is_not_imported(shape, tmp_path):
    net, x = network(shape)
    with torch.no_grad():
        torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
        torch.save((x, net(x)), tmp_path / "case.pt")
    command = [sys.executable, "-c", LOADS, str(tmp_path / "net.pt2"), str(tmp_path / "case.pt")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


@sizes
def test_a_trace_gives_what_the_network_gives(shape):
    net, x = network(shape)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, (x,)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    torch.testing.assert_close(loaded(x), net(x))
    loaded(x).sum().backward()
    net(x).sum().backward()
    for (name, found), (_, wanted) in zip(loaded.named_parameters(), net.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, msg=f"the gradient of {name} differs")


@sizes
def test_tensorboard_draws_the_graph(shape, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    net, x = network(shape)
    with tensorboard.SummaryWriter(tmp_path) as writer:
        writer.add_graph(net, x)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) > 1000


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "trace"])
@sizes
def test_an_onnx_file_gives_what_the_network_gives(shape, dynamo, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    net, x = network(shape)
    file = str(tmp_path / "net.onnx")
    torch.onnx.export(net, (x,), file, dynamo=dynamo, verbose=False, input_names=["x"])
    (found,) = runtime.InferenceSession(file).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), net(x), rtol=1e-4, atol=1e-5)


@sizes
def test_make_fx_fake_and_meta_tensors_see_tensor_operations(shape):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    net, x = network(shape)
    torch.testing.assert_close(make_fx(net)(x)(x), net(x))
    with FakeTensorMode() as mode:
        assert lif(mode.from_tensor(x))[0].shape == x.shape
    assert lif(x.to("meta"))[0].shape == x.shape


@sizes
def test_a_stripped_resnet_exports_and_traces(shape):
    net = (
        sbp_torch.resnet18(widths=(4, 4, 4, 8), time_steps=2)
        if shape == BELOW
        else sbp_torch.resnet18(widths=(16, 4, 4, 8), time_steps=2)
    )
    model = sbp_torch.Shortcut(net, ["layer1"], 10)
    images = torch.rand(2, 3, 32, 32)
    model(images)
    stripped = model.strip().eval()
    torch.testing.assert_close(torch.jit.trace(stripped, (images,))(images), stripped(images))
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(stripped, (images,)).module()(images), stripped(images))


@dataclass(frozen=True, kw_only=True)
class RaisedCosine(Surrogate):
    kind: ClassVar[str] = "raised_cosine_of_a_test"

    def derivative(self, x, xp):
        return xp.astype(xp.abs(x) <= 1.0, x.dtype) * (0.5 + 0.5 * xp.cos(x * xp.pi))


@dataclass(frozen=True, kw_only=True)
class Branching(Surrogate):
    kind: ClassVar[str] = "branching_of_a_test"

    def derivative(self, x, xp):
        # Python's own choice, by a value
        return xp.exp(-xp.abs(x)) if bool(xp.any(x > 0.0)) else xp.ones_like(x)


@dataclass(frozen=True, kw_only=True)
class Clipped(Surrogate):
    kind: ClassVar[str] = "clipped_of_a_test"

    def derivative(self, x, xp):
        inside = xp.logical_and(x > -0.5, xp.logical_not(x >= 0.75))
        falling = xp.sqrt(xp.maximum(1.0 - x**2, 0.0)) + xp.sin(x) ** 2 - xp.minimum(-x, 0.25) * xp.sign(x)
        return xp.where(inside, falling, xp.log(2.0 + xp.square(x)) / 9)


@dataclass(frozen=True, kw_only=True)
class Equal(Surrogate):
    kind: ClassVar[str] = "equal_of_a_test"

    def derivative(self, x, xp):
        return xp.where(x == x, xp.ones_like(x), xp.zeros_like(x))


@pytest.mark.parametrize(
    ("surrogate", "how", "why"),
    [
        (RaisedCosine(), "fused", None),
        (Clipped(), "fused", None),
        (Branching(), "loop", "uses xp.any"),
        (Equal(), "loop", "uses a comparison by == or !="),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Surrogate) else "",
)
def test_a_users_surrogate_has_one_gradient_at_every_size(surrogate, how, why):
    spec = LIFSpec(surrogate=surrogate)
    for shape in SIZES.values():
        gradients = []
        for implementation in ("auto", "loop"):
            x = drawn(shape, requires_grad=True)
            output, _ = lif(x, spec, implementation=implementation)
            (output * drawn(shape)).sum().backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert implementation_for(drawn(ABOVE), spec=spec) == how
    if why is not None:
        with pytest.raises(ValueError, match=why):
            implementation_for(drawn(ABOVE), spec=spec, implementation="fused")


ODD = [float("inf"), -float("inf"), float("nan"), -0.0, 1e-45, 3e38, 1.0]


@pytest.mark.parametrize(
    "spec",
    [
        LIFSpec(decay=0.0, reset="none"),
        LIFSpec(decay=0.0, reset="soft", synaptic_decay=0.0),
        LIFSpec(decay=1.0, rest=0.5),
        LIFSpec(decay=0.5, reset_timing="next", input_gain=0.0, surrogate="triangle"),
        LIFSpec.leaky_integrator(decay=0.0),
    ],
    ids=lambda spec: f"{spec.decay}-{spec.reset}",
)
def test_odd_values_give_the_formulas_answer_whatever_computes_it(spec):
    if not fused.available():
        pytest.skip("numba is not installed")
    x = torch.tensor([ODD, ODD[::-1], [0.5] * len(ODD)])
    outputs = [lif(x, spec, implementation=how) for how in ("loop", "fused")]
    for looped, compiled in zip(outputs[0][1], outputs[1][1], strict=True):
        assert looped is compiled or torch.equal(looped.nan_to_num(7.5), compiled.nan_to_num(7.5))
    assert torch.equal(outputs[0][0].nan_to_num(7.5), outputs[1][0].nan_to_num(7.5))


def test_a_backward_without_any_cotangent_gives_nothing():
    if not fused.available():
        pytest.skip("numba is not installed")
    x = drawn(ABOVE, requires_grad=True)
    output, state = lif(x, implementation="fused")

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            return torch.zeros(())

        @staticmethod
        def backward(ctx, grad):
            return None, None

    Nothing.apply(output, state.potential).requires_grad_().backward()
    assert x.grad is None or not x.grad.any()


@pytest.mark.parametrize("surrogate", ["raised_cosine_of_a_test", "equal_of_a_test"])
@sizes
def test_a_users_surrogate_is_itself_when_compiled(shape, surrogate):
    torch.compiler.reset()
    neuron = LIF(surrogate=surrogate)
    gradients = []
    for run in (neuron, torch.compile(neuron, fullgraph=True)):
        x = drawn(shape, requires_grad=True)
        (run(x) * drawn(shape)).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
