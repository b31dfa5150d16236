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


def divergence(student, teacher, temperature):
    p, q = ((x / temperature).log_softmax(-1) for x in (teacher, student))
    return temperature**2 * functional.kl_div(q, p, reduction="batchmean", log_target=True)


def test_the_mean_of_the_outputs_that_are_right_teaches_all_of_them():
    heads = [logits(6, 4, seed=seed) for seed in range(3)]
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    spec = LossSpec(distillation=0.3, teacher="right", temperature=3.0)
    found = sbp_torch.ShortcutLoss(spec)(ShortcutOutput(heads[0], tuple(heads[1:])), labels, 0.5)
    kept, teachers = [], []
    for sample, label in enumerate(labels):
        right = [head[sample].detach() for head in heads if head[sample].argmax() == label]
        if right:
            kept.append(sample)
            teachers.append(torch.stack(right).mean(0))
    assert 0 < len(kept) < 6
    each = [
        0.7 * functional.cross_entropy(head, labels) + 0.3 * divergence(head[kept], torch.stack(teachers), 3.0)
        for head in heads
    ]
    torch.testing.assert_close(found, each[0] + 0.5 * (each[1] + each[2]))
    said = [{int(head[sample].argmax()) for head in heads} for sample in range(6)]
    nobody = torch.tensor([min(set(range(4)) - classes) for classes in said])
    found = sbp_torch.ShortcutLoss(spec)(ShortcutOutput(heads[0], tuple(heads[1:])), nobody, 0.5)
    apart = sbp_torch.ShortcutLoss()(ShortcutOutput(heads[0], tuple(heads[1:])), nobody, 0.5)
    torch.testing.assert_close(found, 0.7 * apart)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(found, heads))


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("teacher", ["strong", "weak"])
def test_the_step_that_is_surest_teaches_the_one_that_is_least_sure_or_learns_from_it(teacher, detach):
    main = logits(4, 5, 3)
    labels = torch.tensor([2, 0, 1, 1, 0])
    spec = LossSpec(step_distillation=0.5, step_teacher=teacher, temperature=2.0, detach_teacher=detach)
    found = sbp_torch.ShortcutLoss(spec)(ShortcutOutput(main, ()), labels, 1.0)
    sure = main.softmax(-1).max(-1).values.mean(-1)
    teaches, learns = (sure.argmax(), sure.argmin()) if teacher == "strong" else (sure.argmin(), sure.argmax())
    given = main[teaches].detach() if detach else main[teaches]
    expected = functional.cross_entropy(main.mean(0), labels) + 0.5 * divergence(main[learns], given, 2.0)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(loss, main, retain_graph=True)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_samples_steps_that_are_right_teach_those_that_are_wrong():
    main = logits(4, 5, 3)
    labels = torch.tensor([2, 0, 1, 1, 0])
    spec = LossSpec(combine="logits", step_distillation=0.5, step_teacher="right", temperature=2.0)
    found = sbp_torch.ShortcutLoss(spec)(ShortcutOutput(main, ()), labels, 1.0)
    students, teachers = [], []
    for sample, label in enumerate(labels):
        steps = main[:, sample]
        right = steps.argmax(-1) == label
        for step in steps[~right] if right.any() else []:
            students.append(step)
            teachers.append(steps[right].mean(0).detach())
    assert students
    expected = functional.cross_entropy(main.mean(0), labels)
    expected = expected + 0.5 * divergence(torch.stack(students), torch.stack(teachers), 2.0)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(loss, main, retain_graph=True)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_steps_that_are_alike_learn_nothing_from_each_other():
    same = logits(1, 2, 3).detach().expand(4, 2, 3).clone().requires_grad_()
    for teacher in ("strong", "weak", "right"):
        spec = LossSpec(step_distillation=1.0, step_teacher=teacher, detach_teacher=False)
        found = sbp_torch.ShortcutLoss(spec)(ShortcutOutput(same, ()), LABELS, 1.0)
        torch.testing.assert_close(found, functional.cross_entropy(same[0], LABELS))
        assert torch.autograd.grad(found, same)[0].isfinite().all()


def test_the_largest_of_soft_labels_is_what_it_takes_to_be_right():
    main, branch = logits(2, 3), logits(2, 3, seed=1)
    spec = LossSpec(distillation=1.0, teacher="right", detach_teacher=False)
    hard, soft = (
        sbp_torch.ShortcutLoss(spec)(ShortcutOutput(main, (branch,)), labels, 0.5)
        for labels in (torch.tensor([0, 2]), torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]]))
    )
    assert hard > 0
    torch.testing.assert_close(soft, hard)


@pytest.mark.parametrize(
    "spec",
    [
        LossSpec(per_step=True, distillation=0.5),
        LossSpec(distillation=0.5, teacher="right", step_distillation=1.0),
        LossSpec(step_distillation=1.0, step_teacher="right"),
    ],
    ids=["per step", "reliable, strong to weak", "right to wrong"],
)
def test_it_compiles_whole_and_a_moving_coefficient_recompiles_nothing(spec):
    torch.compiler.reset()
    loss = sbp_torch.ShortcutLoss(spec)
    counter = CompileCounter()
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    output = ShortcutOutput(logits(4, 2, 3), (logits(4, 2, 3, seed=1),))
    for value in (0.5, 0.25, 0.0):
        coefficient = torch.tensor(value)
        torch.testing.assert_close(compiled(output, LABELS, coefficient), loss(output, LABELS, coefficient))
    assert counter.frame_count == 1


SOFT = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_labels_and_label_smoothing_are_torchs_own(labels, smoothing):
    output = ShortcutOutput(logits(2, 3), (logits(2, 3, seed=1),))
    ours = sbp_torch.ShortcutLoss(LossSpec(label_smoothing=smoothing))(output, labels, 0.25)
    soft = labels.float() if labels.is_floating_point() else labels

    def theirs(x):
        return functional.cross_entropy(x, soft, label_smoothing=smoothing)

    expected = theirs(output.main) + 0.25 * theirs(output.branches[0])
    torch.testing.assert_close(ours, expected)
    for logit in (output.main, output.branches[0]):
        found, wanted = (torch.autograd.grad(loss, logit, retain_graph=True)[0] for loss in (ours, expected))
        torch.testing.assert_close(found, wanted)


def test_soft_labels_hold_for_every_step_and_a_masked_class_leaves_them_finite():
    main = logits(4, 2, 3)
    loss = sbp_torch.ShortcutLoss(LossSpec(per_step=True, level_weight=0.0))(ShortcutOutput(main, ()), SOFT, 1.0)
    expected = torch.stack([functional.cross_entropy(step, SOFT.float()) for step in main]).mean()
    torch.testing.assert_close(loss, expected)
    masked = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    loss = sbp_torch.ShortcutLoss()(ShortcutOutput(masked, ()), SOFT[:1], 1.0)
    loss.backward()
    assert loss.isfinite()
    assert masked.grad.isfinite().all()


def test_branches_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"branch 0 has \(2, 1\)"):
        sbp_torch.ShortcutLoss()(ShortcutOutput(logits(2, 3), (logits(2, 1),)), LABELS, 1.0)


@pytest.mark.parametrize(
    ("coefficient", "error", "message"),
    [
        (torch.ones(2), ValueError, r"coefficient must be a scalar, got shape \(2,\)"),
        (float("nan"), ValueError, "coefficient must be finite"),
        ("0.5", TypeError, "coefficient must be a real number"),
    ],
)
def test_a_coefficient_that_is_no_finite_scalar_is_refused(coefficient, error, message):
    with pytest.raises(error, match=message):
        sbp_torch.ShortcutLoss()(ShortcutOutput(logits(2, 3), (logits(2, 3),)), LABELS, coefficient)


def test_logits_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"logits must have shape \(batch, classes\) with per_step=False"):
        sbp_torch.ShortcutLoss()(ShortcutOutput(logits(4, 2, 3), ()), LABELS, 1.0)
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\), got \(3,\)"):
        sbp_torch.ShortcutLoss()(ShortcutOutput(logits(2, 3), ()), torch.tensor([0, 1, 2]), 1.0)
