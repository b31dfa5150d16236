"""The ways in which the matrix runs a network with a Shortcut, on the CPU.

Each runs a small network and compares what came out with a way that does not use the thing under test: branches
worked out in NumPy from what the user's own hooks saw, an eager copy, one process with the whole batch.
"""

import copy
import io
import os
import tempfile

import numpy as np
import pytest
import torch
from matrix_nets import ATTACHED, BATCH, CLASSES, STEPS
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import sbp_torch

LABELS = torch.tensor([0, 4, 2, 1])


class Case:
    """One network wrapped, its input, and how to train it by a step."""

    def __init__(self, entry, dtype=torch.float32):
        torch.manual_seed(7)
        self.entry = entry
        images = torch.rand(BATCH, 2, 6, 6, dtype=dtype)
        self.images = images.expand(STEPS, -1, -1, -1, -1) if entry.repeated else images
        self.net = entry.make().to(dtype)
        self.model = self.wrap(self.net)

    def wrap(self, net):
        torch.manual_seed(8)
        model = sbp_torch.Shortcut(net, self.entry.taps, CLASSES, sample=self.images, **self.entry.options)
        model.set_coefficient(0.25)
        return model

    def logits(self, model, images=None):
        result = model(self.images if images is None else images)
        self.entry.reset(model)
        return self.entry.logits(result)

    def loss(self, logits, labels=LABELS):
        return cross_entropy(self.entry.scores(logits).float(), labels)

    def part(self, first, last):
        return self.images[:, first:last] if self.entry.repeated else self.images[first:last]


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def close(found, expected, **tolerances):
    torch.testing.assert_close(found, expected, **({"rtol": 1e-4, "atol": 1e-6} | tolerances))


def trained(case, model=None):
    """Run forward and backward; return logits and gradients."""
    model = case.model if model is None else model
    model.zero_grad()
    logits = case.logits(model)
    case.loss(logits).backward()
    return logits.detach(), gradients(model)


def eager(case):
    options, seen = case.entry.options, {tap: [] for tap in case.entry.taps}
    twin = copy.deepcopy(case.net)
    for tap in case.entry.taps:
        twin.get_submodule(tap).register_forward_hook(lambda m, i, o, tap=tap: seen[tap].append(o))
    main = case.logits(twin)
    total = 0.0
    for tap in case.entry.taps:
        outputs = [(o if options.get("select") is None else o[options["select"]]).detach().numpy() for o in seen[tap]]
        time_axis = options.get("time_axis", 0)
        x = np.stack(outputs) if time_axis == "calls" else outputs[0]
        x = x[None] if time_axis is None else x
        if options.get("channels") == "last":
            x = np.moveaxis(x, -1, 2)
        features = x.reshape(*x.shape[:3], -1).mean(3)
        assert np.ptp(features) > 1e-3, f"nothing to read at {tap}"
        if main.ndim == 2:
            features = features.mean(0)
        branch = case.model.branches[tap.replace(".", "/")]
        total = total + features @ branch.weight.detach().numpy().T + branch.bias.detach().numpy()
    close(case.logits(case.model), main + 0.25 * torch.tensor(total))
    _, found = trained(case)
    assert len(found) == len(list(case.model.parameters())), "a parameter has no gradient"


def compiled(case):
    counter = CompileCounterWithBackend("aot_eager")
    reference = copy.deepcopy(case.model)
    model = torch.compile(case.model, backend=counter, dynamic=False, fullgraph=case.entry.package == "torch")
    frames = None
    for coefficient in (0.25, 0.25, 0.125, 0.0):  # twice the same: some nets are others once they have run
        previous = case.model.coefficient.item()
        for shortcut in (case.model, reference):
            shortcut.set_coefficient(coefficient)
        found, expected = trained(case, model), trained(case, reference)
        close(found[0], expected[0])
        for name, gradient in found[1].items():
            close(gradient, expected[1][name.removeprefix("_orig_mod.")])
        if coefficient == previous:
            frames = counter.frame_count
    assert counter.frame_count == frames, f"recompiled: {frames} frames became {counter.frame_count}"


def compiled_before(case):
    case.model.strip()
    net = torch.compile(case.net, backend="aot_eager", dynamic=False)
    reference = case.wrap(copy.deepcopy(case.net))
    case.logits(net)
    model = case.wrap(net)
    reference.main.load_state_dict(case.net.state_dict())
    found, expected = trained(case, model), trained(case, reference)
    close(found[0], expected[0])
    for name, gradient in found[1].items():
        close(gradient, expected[1][name.replace("_orig_mod.", "")])


def exported(case):
    case.model.strip()
    twin = copy.deepcopy(case.net)
    case.logits(twin)  # as many passes as the other
    model = case.wrap(case.net)
    trained(case, model)
    before, after = (torch.export.export(net.eval(), (case.images,)) for net in (twin, model.strip()))
    assert before.graph_module.code == after.graph_module.code, "another graph"
    assert set(before.state_dict) == set(after.state_dict), "other parameters"
    found, expected = (case.entry.logits(program.module()(case.images)) for program in (after, before))
    assert torch.equal(found, expected), "another output"


def autocast(dtype):
    def run(case):
        expected, _ = trained(case, copy.deepcopy(case.model))
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=16.0)
        optimizer = torch.optim.SGD(case.model.parameters(), 0.1)
        before = [parameter.detach().clone() for parameter in case.model.parameters()]
        with torch.autocast("cpu", dtype):
            logits = case.logits(case.model)
            loss = case.loss(logits)
        close(logits.detach().float(), expected, rtol=0.1, atol=0.35)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        after = list(case.model.parameters())
        assert all(bool(torch.isfinite(parameter).all()) for parameter in after), "not finite"
        moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
        assert all(moved[-2 * len(case.entry.taps) :]), "a branch did not move"

    return run


def copied(case):
    expected = trained(case, copy.deepcopy(case.model))
    twins = [copy.deepcopy(case.model)]
    if case.entry.picklable:
        buffer = io.BytesIO()
        torch.save(case.model, buffer)
        buffer.seek(0)
        twins.append(torch.load(buffer, weights_only=False))
    for twin in twins:
        found = trained(case, twin)
        assert torch.equal(found[0], expected[0]), "a copy gives something else"
        assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1]), "other gradients"
    return None if case.entry.picklable else "ok, their net cannot be pickled"


def without_statistics(model):
    """Let batch norms be functions of one item, so that parts of a batch add up to all of it."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def accumulated(case):
    without_statistics(case.model)
    _, expected = trained(case)
    case.model.zero_grad()
    for first in (0, 2):
        (case.loss(case.logits(case.model, case.part(first, first + 2)), LABELS[first : first + 2]) / 2).backward()
    for name, gradient in gradients(case.model).items():
        close(gradient, expected[name])


class Checkpointed(nn.Module):
    """A network whose whole forward pass is computed again in the backward pass."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return checkpoint(self.net, images, use_reentrant=False)


def checkpointed(case):
    expected = trained(case, copy.deepcopy(case.model))
    case.model.strip()
    entry = copy.copy(case.entry)
    prefixed = {
        key: {f"net.{tap}": part for tap, part in value.items()} if isinstance(value, dict) else value
        for key, value in entry.options.items()
    }
    entry.taps, entry.options = [f"net.{tap}" for tap in entry.taps], prefixed | {"time_axis": case.model.time_axis}
    case.entry = entry
    model = case.wrap(Checkpointed(case.net))
    found = trained(case, model)
    close(found[0], expected[0])
    for name, gradient in found[1].items():
        plain = name.replace("main.net.", "main.").replace("branches.net/", "branches.")
        close(gradient, expected[1][plain])


def sync_batch_norm(case):
    case.model.strip()
    without = copy.deepcopy(case.net)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(case.wrap(copy.deepcopy(case.net)))
    norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in without.modules())
    found = sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if not norms:
        return "no batch norm"
    converted = sum(isinstance(module, nn.BatchNorm2d) for module in without.modules())
    assert found == converted, f"{found} of {converted} converted"
    alone = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(without))
    if case.entry.package != "torch" and not torch.allclose(
        case.logits(alone), case.logits(copy.deepcopy(without)), rtol=1e-4, atol=1e-6
    ):
        return "their net is another once converted"  # without any shortcut
    # without a process group they are the network's own in training too; synchronising needs a GPU
    plain = case.wrap(without)
    (logits, gradients), (expected, wanted) = trained(case, model), trained(case, plain)
    close(logits, expected)
    for name, gradient in gradients.items():
        close(gradient, wanted[name])
    close(case.logits(without_statistics(model)), case.logits(without_statistics(plain)))
    return None


def resumed(case):
    images = [torch.rand_like(case.images) for _ in range(4)]

    def start():
        torch.manual_seed(9)
        model = Case(case.entry).model
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        return model, optimizer, sbp_torch.CoefficientScheduler(model, lambda step: 0.5 / step)

    def steps(parts, batches):
        model, optimizer, scheduler = parts
        for batch in batches:
            optimizer.zero_grad()
            case.loss(case.logits(model, batch)).backward()
            optimizer.step()
            scheduler.step()

    whole, first, second = start(), start(), start()
    steps(whole, images)
    steps(first, images[:2])
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    steps(second, images[2:])
    assert second[0].coefficient.item() == np.float32(0.1), "another coefficient"
    for name, tensor in whole[0].state_dict().items():
        assert torch.equal(second[0].state_dict()[name], tensor), f"{name} differs"
    assert set(whole[0].main.state_dict()) == set(case.entry.make().state_dict()), "not the network's own names"


def stripped(case):
    case.model.eval()
    twin = copy.deepcopy(case.net)
    for tap in case.entry.taps:
        twin.get_submodule(tap)._forward_hooks.clear()
    expected = case.logits(twin)
    assert torch.equal(case.logits(case.model), expected), "evaluation differs"
    net = case.model.strip()
    assert net is case.net, "another object"
    assert not any(module._forward_hooks for module in net.modules()), "a hook is left"
    assert torch.equal(case.logits(net), expected), "the stripped network differs"


def distributed(kind):
    """Two processes, each with half the batch, against one with all of it; also at coefficient 0."""

    def run(case):
        name = next(name for name, entry in ATTACHED.items() if entry is case.entry)
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_worker, (kind, name, f"{folder}/store"), nprocs=2)

    return run


def _worker(rank, kind, name, store):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    _compare(rank, kind, name)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _compare(rank, kind, name):
    # a function of its own: a model that outlives its process group may end waiting for itself
    case = Case(ATTACHED[name])
    without_statistics(case.model)
    reference = copy.deepcopy(case.model)
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(case.model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        net = fully_shard(copy.deepcopy(case.net), mesh=mesh)
        half = sbp_torch.Shortcut(net, case.entry.taps, CLASSES, **case.entry.options)
        with pytest.raises(RuntimeError, match="call fully_shard on the Shortcut too"):
            half(case.images)
        model = fully_shard(case.model, mesh=mesh)
    for coefficient in (0.0, 0.25, 0.0, 0.0):
        for shortcut in (case.model, reference):
            shortcut.set_coefficient(coefficient)
        _, expected = trained(case, reference)
        model.zero_grad()
        part = slice(2 * rank, 2 * rank + 2)
        case.loss(case.logits(model, case.part(part.start, part.stop)), LABELS[part]).backward()
        for name, gradient in gradients(case.model).items():
            whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            close(whole, expected[name])


MODES = {
    "eager": eager,
    "compiled": compiled,
    "compiled before": compiled_before,
    "stripped": stripped,
    "exported": exported,
    "bf16": autocast(torch.bfloat16),
    "fp16 + scaler": autocast(torch.float16),
    "copied": copied,
    "resumed": resumed,
    "accumulated": accumulated,
    "checkpointed": checkpointed,
    "SyncBatchNorm": sync_batch_norm,
    "DDP": distributed("ddp"),
    "FSDP2": distributed("fsdp2"),
}
