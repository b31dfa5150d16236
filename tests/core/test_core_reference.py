"""The adjoint by hand equals finite differences of the smooth twin, and the two forwards agree."""

import itertools
import math

import numpy as np
import pytest

from sbp_core import LIFSpec, LIFState, LossSpec, dynamics, presets
from sbp_core.reference import losses, neuron
from sbp_core.specs.surrogates import FAMILIES

SEED = 20261123
COMBINATIONS = [
    {"reset": reset, "reset_timing": timing, "output_delay": delay, "detach_reset": detach, "synaptic_decay": synaptic}
    for reset, timing, delay, detach, synaptic in itertools.product(
        ("hard", "soft", "none"), ("now", "next"), (0, 1), (False, True), (None, 0.4)
    )
]
COMBINATIONS += [
    fields | {"complementary_state": True}
    for fields in COMBINATIONS
    if fields["reset"] != "none" and fields["reset_timing"] == "now"
]
COMBINATIONS += [fields | {"width_follows": True} for fields in COMBINATIONS if not fields["output_delay"]]
GENERAL = {"decay": 0.7, "threshold": 0.9, "rest": 0.1, "reset_value": -0.2, "input_gain": 0.8, "surrogate": "gaussian"}


def draw(spec, shape=(4, 2, 3)):
    random = np.random.default_rng(SEED)
    x = random.normal(0.6, 0.8, shape)

    def parts():
        return LIFState(
            random.normal(0.3, 0.5, shape[1:]),
            random.normal(0.0, 0.5, shape[1:]) if spec.synaptic_decay is not None else None,
            random.uniform(0.0, 1.0, shape[1:]) if spec.stores_spikes else None,
            random.normal(0.5, 1.0, shape[1:]) if spec.complementary_state else None,
        )

    return x, parts(), random.normal(size=shape), parts()


class Recorder:
    """Detaches by playing back the values of a first run: finite differences then see a constant there."""

    def __init__(self):
        self.values, self.replaying, self.position = [], False, 0

    def __call__(self, value):
        if not self.replaying:
            self.values.append(value)
            return value
        self.position += 1
        return self.values[self.position - 1]

    def rewind(self):
        self.replaying, self.position = True, 0


def twin_objective(spec, output_cotangent, state_cotangent, recorder):
    def objective(x, state, decay):
        recorder.rewind() if recorder.values else None
        total = 0.0
        for c, given in zip(x, output_cotangent, strict=True):
            output, state = dynamics.step(
                spec, state, c, spike=spec.surrogate.antiderivative, detach=recorder, decay=decay
            )
            total += np.sum(output * given)
        return total + sum(
            np.sum(part * given) for part, given in zip(state, state_cotangent, strict=True) if part is not None
        )

    return objective


def differences(function, array, h=1e-6):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        up, down = array.copy(), array.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (function(up) - function(down)) / (2 * h)
    return gradient


@pytest.mark.parametrize("fields", COMBINATIONS, ids=str)
def test_adjoint_equals_finite_differences_of_the_smooth_twin(fields):
    gain = "complement" if fields["reset"] == "soft" else 0.8
    spec = LIFSpec(**(GENERAL | fields | {"input_gain": gain}))
    x, state, given, state_given = draw(spec)
    found = neuron.adjoint(spec, x, state, given, state_given, decay=0.7, step_function=spec.surrogate.antiderivative)
    recorder = Recorder()
    objective = twin_objective(spec, given, state_given, recorder)
    objective(x, state, 0.7)

    close = {"rtol": 1e-7, "atol": 1e-8}
    np.testing.assert_allclose(found.grad_input, differences(lambda v: objective(v, state, 0.7), x), **close)
    for name in state._fields:
        if (part := getattr(state, name)) is not None:
            expected = differences(lambda v, name=name: objective(x, state._replace(**{name: v}), 0.7), part)
            np.testing.assert_allclose(getattr(found.grad_state, name), expected, **close, err_msg=name)
    expected = differences(lambda v: objective(x, state, float(v[0])), np.array([0.7]))
    np.testing.assert_allclose(found.grad_decay, expected[0], **close)


def test_adjoint_of_the_read_out_equals_finite_differences():
    spec = LIFSpec.leaky_integrator(decay=0.8, input_gain="complement", rest=0.2)
    x, state, given, state_given = draw(spec)
    found = neuron.adjoint(spec, x, state, given, state_given)
    objective = twin_objective(spec, given, state_given, Recorder())
    expected = differences(lambda v: objective(v, state, None), x)
    np.testing.assert_allclose(found.grad_input, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("fields", COMBINATIONS, ids=str)
@pytest.mark.parametrize("inclusive", [False, True])
def test_the_two_forwards_give_the_same_spikes_and_states(fields, inclusive):
    spec = LIFSpec(**(GENERAL | fields | {"inclusive": inclusive}))
    x, state, given, state_given = draw(spec, (9, 3, 5))
    assert neuron.margin(spec, x, state) > 1e-6
    output, final = neuron.forward(spec, x, state)
    found = neuron.adjoint(spec, x, state, given, state_given)
    np.testing.assert_array_equal(output, found.output)
    for part, expected in zip(final, found.state, strict=True):
        assert (part is None) == (expected is None)
        if part is not None:
            np.testing.assert_allclose(part, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_surrogate_is_the_derivative_of_its_smooth_twin(family):
    surrogate = FAMILIES[family]()
    random = np.random.default_rng(SEED)
    x = random.uniform(-3, 3, 200)
    width = getattr(surrogate, "width", 1.0)
    x = x[np.min(np.abs(x[:, None] - np.array([-width, -width / 2, 0, width / 2, width])), axis=1) > 1e-3]
    h = 1e-6
    slope = (surrogate.antiderivative(x + h) - surrogate.antiderivative(x - h)) / (2 * h)
    np.testing.assert_allclose(surrogate.derivative(x, np), slope, rtol=1e-5, atol=1e-9)
    assert surrogate.antiderivative(np.zeros(1))[0] == 0.5
    np.testing.assert_allclose(surrogate.derivative(np.zeros(1), np)[0], surrogate.peak, rtol=1e-15)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_surrogate_gives_nan_far_from_the_threshold(family):
    far = np.array([-1e300, -1e4, -5.0, 5.0, 1e4, 1e300])
    with np.errstate(over="ignore"):
        assert np.all(np.isfinite(FAMILIES[family]().derivative(far, np)))


LOSSES = {
    "logits": LossSpec(combine="logits"),
    "losses": LossSpec(),
    "per step, logits": LossSpec(combine="logits", per_step=True, level_weight=0.3, level=0.5),
    "per step": LossSpec(per_step=True, level_weight=0.3),
    "distilled": LossSpec(distillation=0.4, temperature=2.0, detach_teacher=False),
    "smoothed": LossSpec(label_smoothing=0.2),
    "smoothed, per step, distilled": LossSpec(
        label_smoothing=0.3, per_step=True, level_weight=0.2, distillation=0.5, detach_teacher=False
    ),
    "per step, distilled": LossSpec(per_step=True, level_weight=0.2, distillation=0.7, detach_teacher=False),
    "reliable": LossSpec(distillation=0.4, teacher="right", detach_teacher=False),
    "per step, reliable": LossSpec(
        per_step=True, level_weight=0.2, distillation=0.4, teacher="right", detach_teacher=False
    ),
    "strong to weak": LossSpec(step_distillation=0.7, temperature=2.0, detach_teacher=False),
    "strong to weak, logits": LossSpec(combine="logits", step_distillation=1.5, detach_teacher=False),
    "weak to strong": LossSpec(step_distillation=0.7, step_teacher="weak", label_smoothing=0.1, detach_teacher=False),
    "right to wrong": LossSpec(step_distillation=2.0, step_teacher="right", detach_teacher=False),
    "right to wrong, per step, distilled": LossSpec(
        per_step=True, step_distillation=0.5, step_teacher="right", distillation=0.3, detach_teacher=False
    ),
    "strong to weak, reliable": LossSpec(
        step_distillation=0.5, distillation=0.3, teacher="right", detach_teacher=False
    ),
}


SOFT = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.1]])  # the last sums to 0.7


@pytest.mark.parametrize("labels", [np.array([0, 3, 1]), SOFT], ids=["classes", "soft"])
@pytest.mark.parametrize("spec", LOSSES.values(), ids=LOSSES)
def test_the_gradient_of_every_loss_equals_finite_differences(spec, labels):
    random = np.random.default_rng(SEED)
    shape = (4, 3, 4) if spec.timed else (3, 4)
    main, branches = random.normal(size=shape), [random.normal(size=shape) for _ in range(2)]
    _, grad_main, grad_branches = losses.loss_of(spec, main, branches, labels, 0.25)
    expected = differences(lambda v: losses.loss_of(spec, v, branches, labels, 0.25)[0], main)
    np.testing.assert_allclose(grad_main, expected, atol=1e-9)
    expected = differences(lambda v: losses.loss_of(spec, main, [branches[0], v], labels, 0.25)[0], branches[1])
    np.testing.assert_allclose(grad_branches[1], expected, atol=1e-9)


def test_soft_labels_of_one_class_are_that_class_and_smoothing_is_a_soft_label():
    random = np.random.default_rng(SEED)
    main, branch, labels = random.normal(size=(3, 4)), random.normal(size=(3, 4)), np.array([0, 3, 1])
    one_hot = np.eye(4)[labels]
    hard = losses.loss_of(LossSpec(), main, [branch], labels, 0.25)
    soft = losses.loss_of(LossSpec(), main, [branch], one_hot, 0.25)
    smoothed = losses.loss_of(LossSpec(label_smoothing=0.2), main, [branch], labels, 0.25)
    spread = losses.loss_of(LossSpec(), main, [branch], 0.8 * one_hot + 0.05, 0.25)
    for found, wanted in ((soft, hard), (smoothed, spread)):
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-14)
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-15)
        np.testing.assert_allclose(found[2][0], wanted[2][0], atol=1e-15)
    masked = np.where(np.arange(4) == 2, -np.inf, main)
    value, gradient = losses.cross_entropy(masked, SOFT[:1].repeat(3, 0))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_detached_teacher_learns_from_the_labels_alone():
    random = np.random.default_rng(SEED)
    main, branch, labels = random.normal(size=(3, 4)), random.normal(size=(3, 4)), np.array([0, 3, 1])
    taught = LossSpec(distillation=0.4)
    value, grad_main, (grad_branch,) = losses.loss_of(taught, main, [branch], labels, 0.25)
    attached = losses.loss_of(taught.replace(detach_teacher=False), main, [branch], labels, 0.25)
    np.testing.assert_array_equal(grad_main, losses.cross_entropy(main, labels)[1])
    assert value == attached[0]
    np.testing.assert_array_equal(grad_branch, attached[2][0])
    assert np.max(np.abs(grad_main - attached[1])) > 1e-3


def test_a_worked_example_by_hand():
    # tau = 0.5, V_th = 1: u_pre = 0.8, then 0.4 + 0.8 = 1.2 fires and resets, then 0.8
    output, state = neuron.forward(LIFSpec(), np.full((3, 1), 0.8))
    assert output.ravel().tolist() == [0.0, 1.0, 0.0]
    assert state.potential.tolist() == [0.8]


@pytest.mark.parametrize(("inclusive", "fired"), [(False, 0.0), (True, 1.0)])
def test_an_exact_tie_fires_only_if_inclusive(inclusive, fired):
    output, _ = neuron.forward(LIFSpec(inclusive=inclusive), np.array([[1.0]]))
    assert output.item() == fired


def test_a_delayed_output_is_the_undelayed_one_a_step_later():
    random = np.random.default_rng(SEED)
    x = random.normal(0.7, 0.6, (20, 3, 4))
    for fields in ({"reset": "hard"}, {"reset": "soft"}, {"reset": "none"}, {"reset": "soft", "reset_timing": "next"}):
        plain, _ = neuron.forward(LIFSpec(**fields), x)
        delayed, _ = neuron.forward(LIFSpec(output_delay=1, **fields), x)
        np.testing.assert_array_equal(delayed[1:], plain[:-1])
        assert not delayed[0].any()


def test_state_carried_between_calls_equals_one_long_call():
    x = np.random.default_rng(SEED).normal(0.7, 0.6, (10, 2, 3))
    for name, spec in {
        "paper": LIFSpec(),
        "synaptic": presets.snntorch_synaptic(alpha=0.8, beta=0.9),
        "delayed": LIFSpec(output_delay=1),
    }.items():
        whole, last = neuron.forward(spec, x)
        first, state = neuron.forward(spec, x[:4])
        second, end = neuron.forward(spec, x[4:], state)
        np.testing.assert_array_equal(np.concatenate([first, second]), whole, err_msg=name)
        np.testing.assert_array_equal(end.potential, last.potential)


def test_margin_measures_the_distance_to_threshold_and_rectangle_edges():
    assert neuron.margin(LIFSpec(), np.array([[0.9]])) == pytest.approx(0.1)
    assert neuron.margin(LIFSpec(), np.array([[0.52]])) == pytest.approx(0.02)
    assert neuron.margin(LIFSpec.leaky_integrator(), np.array([[0.9]])) == math.inf


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_clif_is_the_fields(reset):
    # Huang et al. 2024, Eq. 10-12, written out: the state fades by sigmoid(H / tau), its sigmoid strengthens the reset
    x = np.random.default_rng(5).normal(0.9, 1.2, (6, 2, 5))
    for tau in (2.0, 5.0):
        u, m, spikes = np.zeros(x.shape[1:]), np.zeros(x.shape[1:]), []
        for current in x:
            h = (1.0 - 1.0 / tau) * u + current
            spikes.append((h > 1.0).astype(float))
            m = m / (1.0 + np.exp(-h / tau)) + spikes[-1]
            u = h - spikes[-1] if reset == "soft" else h * (1.0 - spikes[-1])
            u = u - spikes[-1] / (1.0 + np.exp(-m))
        found, state = neuron.forward(LIFSpec.complementary(decay=1.0 - 1.0 / tau, reset=reset), x)
        np.testing.assert_array_equal(found, spikes)
        np.testing.assert_allclose(state.potential, u, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(state.complementary, m, rtol=1e-12)


def test_a_width_that_follows_is_twice_the_deviation_of_the_potentials_and_keeps_the_area():
    # Jiang et al. 2025: a rectangle of width w and height 1 / w, w = 2 * deviation, anew at each step
    x = np.random.default_rng(5).normal(0.8, 2.5, (4, 16, 50))
    spec = LIFSpec(decay=0.5, width_follows=True)
    found = neuron.adjoint(spec, x, None, np.ones_like(x), LIFState(np.zeros(x.shape[1:])))
    u, widths, slopes = np.zeros(x.shape[1:]), [], []
    for current in x:
        h = 0.5 * u + current
        widths.append(2.0 * h.std())
        slopes.append((np.abs(h - 1.0) < widths[-1] / 2) / widths[-1])
        u = h * (h <= 1.0)
    np.testing.assert_allclose(found.grad_input[-1], slopes[-1], rtol=1e-6)
    assert 0.5 < np.mean(slopes[-1] > 0.0) < 0.95
    assert widths[-1] > 3.0
    fixed = neuron.adjoint(spec.replace(width_follows=False), x, None, np.ones_like(x), LIFState(np.zeros(x.shape[1:])))
    np.testing.assert_array_equal(found.output, fixed.output)
    # potentials that are all alike have no deviation, and do no harm
    alike = neuron.adjoint(spec, np.ones((2, 3, 4)), None, np.ones((2, 3, 4)), LIFState(np.zeros((3, 4))))
    assert np.isfinite(alike.grad_input).all()


def test_plif_is_the_fields():
    # Fang et al. 2021, Eq. 3-5, written out: H = V + (x - V) / tau, 1 / tau = sigmoid(w), hard reset to 0
    x = np.random.default_rng(5).normal(0.9, 1.2, (6, 2, 5))
    for tau in (2.0, 5.0):
        w = -np.log(tau - 1.0)
        v, spikes = np.zeros(x.shape[1:]), []
        for current in x:
            h = v + (current - v) / (1.0 + np.exp(-w))
            spikes.append((h > 1.0).astype(float))
            v = h * (1.0 - spikes[-1])
        found, state = neuron.forward(LIFSpec.parametric(decay=1.0 - 1.0 / tau), x)
        np.testing.assert_array_equal(found, spikes)
        np.testing.assert_allclose(state.potential, v, rtol=1e-12, atol=1e-12)
