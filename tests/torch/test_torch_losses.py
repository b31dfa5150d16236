"""Losses of a LossSpec in a loop of one's own: what conformance, which feeds in arrays, does not see."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

import sbp_torch
from sbp_core import LossSpec, ShortcutOutput

LABELS = torch.tensor([2, 0])


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def test_supervision_of_every_step_is_the_mean_of_each_steps_loss_and_a_pull_to_the_level():
    main = logits(4, 2, 3)
    loss = sbp_torch.ShortcutLoss(LossSpec(per_step=True, level_weight=0.25, level=2.0))
    entropies = torch.stack([functional.cross_entropy(step, LABELS) for step in main])
    expected = 0.75 * entropies.mean() + 0.25 * functional.mse_loss(main, torch.full_like(main, 2.0))
    torch.testing.assert_close(loss(ShortcutOutput(main, ()), LABELS, 1.0), expected)


@pytest.mark.parametrize("detach", [True, False])
def test_the_teacher_gets_a_gradient_from_its_students_only_if_attached(detach):
    main, branch = logits(2, 3), logits(2, 3, seed=1)
    spec = LossSpec(distillation=1.0, temperature=2.0, detach_teacher=detach)
    sbp_torch.ShortcutLoss(spec)(ShortcutOutput(main, (branch,)), LABELS, 1.0).backward()
    alone = torch.autograd.grad(functional.cross_entropy(main, LABELS), main)[0]
    assert torch.equal(main.grad, alone) == detach
    teacher, student = main.detach(), branch.detach().requires_grad_()
    divergence = functional.kl_div(
        (student / 2.0).log_softmax(-1), (teacher / 2.0).log_softmax(-1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(branch.grad, torch.autograd.grad(4.0 * divergence, student)[0])


def test_it_compiles_whole_and_a_moving_coefficient_recompiles_nothing():
    torch.compiler.reset()
    loss = sbp_torch.ShortcutLoss(LossSpec(per_step=True, distillation=0.5))
    counter = CompileCounter()
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    output = ShortcutOutput(logits(4, 2, 3), (logits(4, 2, 3, seed=1),))
    for value in (0.5, 0.25, 0.0):
        coefficient = torch.tensor(value)
        torch.testing.assert_close(compiled(output, LABELS, coefficient), loss(output, LABELS, coefficient))
    assert counter.frame_count == 1


def test_logits_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"logits must have shape \(batch, classes\) with per_step=False"):
        sbp_torch.ShortcutLoss()(ShortcutOutput(logits(4, 2, 3), ()), LABELS, 1.0)
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\), got \(3,\)"):
        sbp_torch.ShortcutLoss()(ShortcutOutput(logits(2, 3), ()), torch.tensor([0, 1, 2]), 1.0)
