"""Schedules: the paper's values at the paper's steps, whatever kind of number the step is."""

import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest

from sbp_core import Constant, Cosine, Evolutionary, ExponentialSchedule, Following, Schedule, Step
from sbp_core.reference import backend

TOTAL = 40
FORMULAS = {
    "constant": (Constant(value=0.7, total_steps=TOTAL), lambda p: 0.7),
    "evolutionary": (Evolutionary(initial=0.25, total_steps=TOTAL), lambda p: 0.25 * (1 - p)),
    "cosine": (Cosine(initial=0.5, final=0.1, total_steps=TOTAL), lambda p: 0.1 + 0.2 * (1 + math.cos(math.pi * p))),
    "exponential": (ExponentialSchedule(initial=2.0, ratio=0.01, total_steps=TOTAL), lambda p: 2.0 * 0.01**p),
    "step": (
        Step(initial=1.0, factor=0.5, milestones=(0.25, 0.5), total_steps=TOTAL),
        lambda p: 1.0 if p <= 0.25 else 0.5 if p <= 0.5 else 0.25,
    ),
    "following": (Following(initial=0.8, target=0.4, signal=0.1, total_steps=TOTAL), lambda p: 0.6 * (1 - p)),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("step", [0, 1, 10, 11, 20, 21, 39, 40])
def test_each_schedule_follows_its_formula(name, step):
    schedule, formula = FORMULAS[name]
    assert schedule(step) == pytest.approx(formula(step / TOTAL), rel=1e-14)


def test_the_first_and_last_training_steps_are_those_of_algorithm_1():
    coefficient = Evolutionary(initial=0.25, total_steps=1000)
    assert coefficient(1) == 0.25 * (1 - 1 / 1000)
    assert coefficient(1000) == 0.0


@pytest.mark.parametrize("name", FORMULAS)
def test_a_step_outside_the_training_is_clamped(name):
    schedule, _ = FORMULAS[name]
    assert schedule(TOTAL + 100) == schedule(TOTAL)
    assert schedule(-5) == schedule(0)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_an_array_step_gives_the_value_of_the_number(name, dtype):
    schedule, _ = FORMULAS[name]
    steps = np.array([0, 3, 10, 11, 25, 40, 90], dtype)
    values = schedule(steps)
    assert values.dtype == ("float64" if dtype == "float64" else "float32")
    exact = dtype == "float64"
    np.testing.assert_allclose(values, [schedule(int(s)) for s in steps], rtol=1e-14 if exact else 3e-6, atol=1e-8)


def test_per_epoch_moves_once_an_epoch_and_ends_like_per_iteration():
    schedule = Evolutionary(initial=1.0, total_steps=12, per="epoch", steps_per_epoch=4)
    assert [schedule(k) for k in range(1, 13)] == pytest.approx([2 / 3] * 4 + [1 / 3] * 4 + [0.0] * 4)
    assert schedule(0) == 1.0
    np.testing.assert_allclose(schedule(np.arange(1.0, 13.0)), [schedule(k) for k in range(1, 13)], rtol=1e-15)


def test_open_fields_are_filled_in_and_stated_ones_stay():
    assert Evolutionary().resolve(total_steps=9).total_steps == 9
    assert Evolutionary(total_steps=5).resolve(total_steps=9, steps_per_epoch=3).total_steps == 5
    assert Evolutionary(per="epoch").resolve(total_steps=9, steps_per_epoch=3).steps_per_epoch == 3


def test_an_unresolved_schedule_says_what_is_missing():
    with pytest.raises(ValueError, match="total_steps"):
        Evolutionary()(1)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        Evolutionary(total_steps=4, per="epoch")(1)


@pytest.mark.parametrize("total", [0, -3])
def test_total_steps_of_zero_or_less_are_refused(total):
    with pytest.raises(ValueError, match=f"total_steps must be at least 1, got {total}"):
        Evolutionary(total_steps=total)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Evolutionary(initial=math.nan), "initial must be finite"),
        (lambda: ExponentialSchedule(ratio=0.0), "ratio must be greater than 0"),
        (lambda: Step(milestones=(0.5, 0.25)), "milestones must increase"),
        (lambda: Step(milestones=(1.5,)), r"milestones must lie in \[0, 1\]"),
        (lambda: Cosine(per="batch"), "per must be one of"),
    ],
)
def test_a_schedule_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_step_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="expected an array or a number, got str"):
        Evolutionary(total_steps=3)("one")


def test_the_reference_backend_reads_a_schedule_at_python_numbers():
    assert backend.make_backend().schedule(Evolutionary(total_steps=4), 1, mode="eager") == 0.1875


def test_a_step_falls_right_after_its_milestone_and_the_evolutionary_coefficient_ends_at_0_under_xla():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    for total, milestone in itertools.product((10, 30, 100, 440, 1000), (0.1, 0.3, 0.57, 0.7, 0.9)):
        schedule = Step(initial=0.4, factor=0.5, milestones=(milestone,), total_steps=total)
        last = math.floor(milestone * total + 1e-9)
        found = [float(jax.jit(schedule)(step)) for step in (last, last + 1)]
        assert found == pytest.approx([0.4, 0.2]), (total, milestone)
        assert float(jax.jit(Evolutionary(initial=0.25, total_steps=total))(total)) == 0.0


SIZES = [(1, 3), (7, 9), (468, 300), (391, 300), (1000, 7), (49, 11)]


def per_epoch_by_hand(k, n, total):
    last = Fraction(min(math.ceil(Fraction(k, n)) * n, total))
    return float(Fraction(1, 4) * (1 - last / total))


def compiled(framework, schedule):
    """Return the schedule compiled, from an integer array to a NumPy array."""
    if framework == "jax":
        jax = pytest.importorskip("jax", reason="JAX is not installed")
        return lambda steps: np.asarray(jax.jit(schedule)(jax.numpy.asarray(steps)))
    if framework == "tensorflow":
        tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
        return lambda steps: tf.function(schedule, jit_compile=True)(tf.constant(steps)).numpy()
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.compiler.reset()
    return lambda steps: torch.compile(schedule, fullgraph=True)(torch.tensor(steps)).numpy()


@pytest.mark.parametrize("kind", ["int32", "float32"])
@pytest.mark.parametrize("framework", ["jax", "tensorflow", "torch"])
def test_all_steps_of_an_epoch_have_its_coefficient_when_compiled(framework, kind):
    for n, epochs in SIZES:
        schedule = Evolutionary(initial=0.25, total_steps=n * epochs, per="epoch", steps_per_epoch=n)
        steps = np.arange(1, n * epochs + 1)
        steps = steps if len(steps) < 4000 else np.unique(np.concatenate([steps[n - 1 :: n], steps[::n], steps[:50]]))
        wanted = [per_epoch_by_hand(int(k), n, n * epochs) for k in steps]
        np.testing.assert_allclose(compiled(framework, schedule)(steps.astype(kind)), wanted, rtol=1e-6, atol=1e-8)
        assert [schedule(int(k)) for k in steps] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("kind", ["uint32", "uint8", "int8", "int16", "uint64"])
@pytest.mark.parametrize("per", ["iteration", "epoch"])
def test_a_counter_of_any_integers_counts_the_same_steps(kind, per):
    # flax.nnx.Optimizer counts in uint32
    steps, total = np.arange(101), 210
    schedule = Evolutionary(initial=0.25, total_steps=total, per=per, steps_per_epoch=7)
    wanted = [per_epoch_by_hand(int(k), 7 if per == "epoch" else 1, total) for k in steps]
    np.testing.assert_allclose(schedule(steps.astype(kind)), wanted, rtol=1e-6)
    assert schedule(steps.astype(kind)[22]) == pytest.approx(wanted[22], rel=1e-6)


@pytest.mark.parametrize("kind", ["uint32", "uint8"])
@pytest.mark.parametrize("framework", ["jax", "tensorflow", "torch"])
def test_a_counter_without_negatives_counts_the_same_steps_when_compiled(framework, kind):
    schedule = Evolutionary(initial=0.25, total_steps=210, per="epoch", steps_per_epoch=7)
    steps = np.arange(101)
    wanted = [per_epoch_by_hand(int(k), 7, 210) for k in steps]
    np.testing.assert_allclose(compiled(framework, schedule)(steps.astype(kind)), wanted, rtol=1e-6)


@pytest.mark.parametrize("framework", ["jax", "tensorflow", "torch"])
def test_no_step_is_lost_where_float32_has_gaps(framework):
    total = 2**26
    last = np.array([total - 3, total - 2, total - 1, total], "int32")
    evolutionary = Evolutionary(initial=1.0, total_steps=total)
    np.testing.assert_allclose(compiled(framework, evolutionary)(last), (total - last) / total, rtol=1e-6)
    step = Step(initial=1.0, factor=0.5, milestones=((total - 2) / total,), total_steps=total)
    np.testing.assert_array_equal(compiled(framework, step)(last), [1.0, 1.0, 0.5, 0.5])
    epochs = Evolutionary(initial=1.0, total_steps=total, per="epoch", steps_per_epoch=2**25 + 1)
    np.testing.assert_array_equal(
        compiled(framework, epochs)(np.array([2**25 + 1, 2**25 + 2], "int32")) > 0, [True, False]
    )


@pytest.mark.parametrize(
    "schedule",
    [Evolutionary(total_steps=1), Cosine(total_steps=1), Step(total_steps=1), ExponentialSchedule(total_steps=1)],
    ids=lambda schedule: schedule.kind,
)
def test_training_of_one_step_ends_where_longer_training_does(schedule):
    longer = schedule.replace(total_steps=100)
    assert schedule(1) == pytest.approx(longer(100))
    assert schedule(-5) == schedule(0) == pytest.approx(longer(0))
    assert schedule(7) == schedule(1)


def test_following_keeps_part_of_what_was_seen_before_and_never_leaves_its_range():
    schedule = Following(initial=0.5, target=0.2, smoothing=0.75, fade=False, total_steps=TOTAL)
    seen = [-0.3, 0.1, 0.1, 1.0000001, 1.0]
    values = []
    for agreement in seen:
        schedule = schedule.after(agreement)
        values.append(schedule(7))
    smoothed = [0.0, 0.025, 0.04375, 0.2828125, 0.462109375]
    assert schedule.signal == pytest.approx(smoothed[-1])
    assert values == pytest.approx([0.5 * max(0.0, 1 - s / 0.2) for s in smoothed])
    assert [step for step in range(1, 9) if Following(every=4).is_due(step)] == [1, 4, 8]


class Seen(NamedTuple):
    early_agreement: float
    early_share: float


def test_following_takes_the_measure_that_it_names_and_a_file_without_one_means_agreement():
    look = Seen(early_agreement=0.05, early_share=0.3)
    assert Following(measure="share").seeing(look).signal == 0.3
    assert Following(measure="agreement").seeing(look).signal == 0.05
    before = {"kind": "following", "initial": 1.0, "target": 0.2, "smoothing": 0.5, "every": 4, "fade": True}
    assert Schedule.from_dict(before).seeing(look).signal == 0.05


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target": 0.0}, "target must be greater than 0"),
        ({"smoothing": 1.0}, "smoothing must be less than 1"),
        ({"every": 0}, "every must be at least 1"),
        ({"signal": 1.5}, "signal must lie in"),
        ({"measure": "size"}, "measure must be one of 'agreement', 'share'"),
    ],
)
def test_mistakes_in_what_follows_are_named(fields, said):
    with pytest.raises(ValueError, match=said):
        Following(**fields)
