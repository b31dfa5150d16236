"""Specs are frozen, validated at the edge, and survive JSON."""

import dataclasses
import inspect
import json

import numpy as np
import pytest

from sbp_core import (
    Constant,
    Cosine,
    Evolutionary,
    ExponentialSchedule,
    Following,
    LIFSpec,
    LIFState,
    LossSpec,
    Rectangle,
    ResNetSpec,
    ShortcutSpec,
    Step,
    Surrogate,
    as_surrogate,
    presets,
    resnet18_spec,
    resnet34_spec,
)
from sbp_core.inputs import check_input, check_state
from sbp_core.specs.base import Spec
from sbp_core.specs.losses import as_loss
from sbp_core.specs.surrogates import FAMILIES, of_half_width

SPECS = [
    LIFSpec(decay=0.3, synaptic_decay=0.1, surrogate=FAMILIES["leaky_rectangle"](leak=0.2)),
    LIFSpec.parametric(input_gain="complement"),
    LIFSpec.leaky_integrator(),
    ResNetSpec(depths=(1, 2), widths=(4, 8), neuron=LIFSpec(decay=0.9)),
    ShortcutSpec(taps=("layer1", "layer2"), combine="losses"),
    LossSpec(per_step=True, level=0.5, distillation=0.25, detach_teacher=False),
    Evolutionary(total_steps=7, per="epoch", steps_per_epoch=2),
    Step(milestones=(0.1, 0.9)),
    Constant(value=0.0),
    Cosine(final=0.1),
    Following(signal=0.25, fade=False, measure="share"),
    ExponentialSchedule(ratio=0.5),
    *(family() for family in FAMILIES.values()),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_json_round_trip_loses_nothing(spec):
    text = spec.to_json()
    assert type(spec).from_json(text) == spec
    assert Spec.from_json(text) == spec
    assert json.loads(text)["kind"] == spec.kind


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_specs_are_frozen_and_hashable(spec):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, dataclasses.fields(spec)[0].name, 0)
    assert hash(spec) == hash(type(spec).from_json(spec.to_json()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay": 1.5}, r"decay must lie in \[0, 1\], got 1.5"),
        ({"decay": -0.1}, r"decay must lie in \[0, 1\]"),
        ({"decay": float("nan")}, "decay must be finite"),
        ({"threshold": float("inf")}, "threshold must be finite, got inf"),
        ({"synaptic_decay": 2}, "synaptic_decay"),
        ({"reset": "gentle"}, "reset must be one of 'hard', 'soft', 'none'; got 'gentle'"),
        ({"reset_timing": "later"}, "reset_timing"),
        ({"output_delay": 2}, "output_delay must be 0 or 1"),
        ({"surrogate": "box"}, "surrogate must be one of 'rectangle'.*got 'box'"),
        ({"learn_decay": True, "decay": 1.0}, "strictly between 0 and 1"),
        ({"initial_potential": float("inf")}, "initial_potential"),
        ({"initial_follows": True, "learn_initial": True}, "initial_follows and learn_initial both say where neurons"),
        (
            {"initial_follows": True, "output": "potential", "reset": "none"},
            "initial_follows is of neurons that fire: .* got 'potential'",
        ),
        ({"width_follows": True, "output_delay": 1}, "width_follows is of the spikes of the same step: .* and 1"),
        ({"width_follows": True, "surrogate": "straight_through"}, "width_follows needs a surrogate with a half width"),
        ({"complementary_state": True, "reset": "none"}, "complementary_state acts in the reset: .* got 'none'"),
        ({"complementary_state": True, "reset_timing": "next"}, "complementary_state acts .* got 'hard' and 'next'"),
        ({"output": "potential"}, "never fires"),
        ({"input_gain": "half"}, "input_gain"),
    ],
)
def test_a_neuron_out_of_range_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        LIFSpec(**fields)


@pytest.mark.parametrize("fields", [{"decay": "half"}, {"decay": True}, {"detach_reset": 1}, {"surrogate": 3}])
def test_a_neuron_field_of_the_wrong_type_is_refused(fields):
    with pytest.raises(TypeError, match=next(iter(fields))):
        LIFSpec(**fields)


def test_a_replaced_field_is_validated_again():
    with pytest.raises(ValueError, match="decay"):
        LIFSpec().replace(decay=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_surrogate_refuses_a_height_or_width_of_zero(family):
    for field in dataclasses.fields(FAMILIES[family]):
        if field.name in ("height", "width"):
            with pytest.raises(ValueError, match=f"{field.name} must be greater than 0"):
                FAMILIES[family](**{field.name: 0.0})


def test_the_papers_rectangle_has_area_one():
    assert Rectangle(width=4.0).peak == 0.25
    assert as_surrogate("rectangle") == Rectangle(width=1.0)


@pytest.mark.parametrize("family", [kind for kind in FAMILIES if kind != "straight_through"])
@pytest.mark.parametrize("half_width", [0.3, 1.7])
def test_one_measure_of_width_holds_for_every_family(family, half_width):
    surrogate = of_half_width(family, half_width)
    low, high = surrogate.derivative(np.array([half_width * (1 - 1e-9), half_width * (1 + 1e-9)]), np) / surrogate.peak
    assert surrogate.half_width == pytest.approx(half_width)
    assert low == pytest.approx(0.5, abs=1e-6) or (low == 1.0 and high < 0.5)  # or it jumps there


def test_a_family_without_width_has_no_half_width():
    with pytest.raises(ValueError, match="'straight_through' has no width"):
        of_half_width("straight_through", 1.0)


def test_json_of_another_kind_or_with_unknown_fields_is_refused():
    with pytest.raises(ValueError, match="kind must be one of"):
        LIFSpec.from_json(Evolutionary().to_json())
    with pytest.raises(ValueError, match="unknown field 'tau'"):
        LIFSpec.from_dict({"kind": "lif", "tau": 2.0})
    with pytest.raises(ValueError, match="JSON object"):
        LIFSpec.from_json("[1]")
    assert Surrogate.from_json(Rectangle().to_json()) == Rectangle()


def test_every_preset_is_a_spec_that_survives_json():
    needed = {"beta": 0.9, "alpha": 0.8}
    found = 0
    for name, preset in inspect.getmembers(presets, inspect.isfunction):
        if preset.__module__ != presets.__name__:
            continue
        wanted = {
            key: needed[key]
            for key, parameter in inspect.signature(preset).parameters.items()
            if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        }
        spec = preset(**wanted)
        assert Spec.from_json(spec.to_json()) == spec, name
        found += 1
    assert found >= 28


def test_resnets_have_the_layers_of_their_name():
    assert resnet18_spec().layers == 18
    assert resnet34_spec().layers == 34
    assert resnet18_spec().default_taps == ("layer1", "layer2", "layer3")


def test_resnet18_has_the_known_number_of_parameters():
    # torchvision's resnet18 has 11,689,512 with 1000 classes; its running statistics are not parameters
    shapes = resnet18_spec(stem="imagenet", num_classes=1000).parameter_shapes()
    count = sum(int(np.prod(shape)) for name, shape in shapes.items() if "running" not in name)
    assert count == 11_689_512


def test_a_network_out_of_range_is_refused_by_name():
    with pytest.raises(ValueError, match="widths must be as many as depths"):
        ResNetSpec(depths=(1, 1), widths=(4,))
    with pytest.raises(ValueError, match=r"depths\[1\] must be at least 1"):
        ResNetSpec(depths=(1, 0), widths=(4, 4))
    with pytest.raises(ValueError, match="time_steps must be at least 1"):
        resnet18_spec(time_steps=0)
    with pytest.raises(TypeError, match="neuron must be a LIFSpec"):
        resnet18_spec(neuron="lif")


def test_a_missing_tap_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"tap 'layer9' does not exist.*layer1, layer2"):
        ShortcutSpec(taps=("layer9",)).check_taps(["layer1", "layer2"])
    with pytest.raises(ValueError, match="at least one"):
        ShortcutSpec(taps=())
    with pytest.raises(ValueError, match="must not repeat"):
        ShortcutSpec(taps=("a", "a"))
    with pytest.raises(TypeError, match="sequence of names"):
        ShortcutSpec(taps="layer1")


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((4,), "float32", ValueError, "at least two axes"),
        ((), "float32", ValueError, "at least two axes"),
        ((0, 3), "float32", ValueError, "at least one time step"),
        ((4, 3), "torch.int64", TypeError, "floating-point"),
        ((4, 3), "bool", TypeError, "floating-point"),
    ],
)
def test_a_bad_input_is_refused(shape, dtype, error, message):
    with pytest.raises(error, match=message):
        check_input(shape, dtype)


def test_an_empty_batch_and_every_floating_dtype_are_accepted():
    for dtype in ("float64", "float32", "torch.bfloat16", "<dtype: float16>".strip("<>").split()[-1]):
        assert check_input((4, 0), dtype) is None


def test_a_state_that_does_not_fit_is_refused():
    good = np.zeros((2, 3))
    assert check_state(LIFSpec(), LIFState(good), (2, 3), "float64") is None
    with pytest.raises(ValueError, match=r"shape of one step of x, \(5, 3\); got \(2, 3\)"):
        check_state(LIFSpec(), LIFState(good), (5, 3), "float64")
    with pytest.raises(ValueError, match=r"state.current must be an array"):
        check_state(LIFSpec.current_based(), LIFState(good), (2, 3), "float64")
    with pytest.raises(ValueError, match=r"state.spikes must be None"):
        check_state(LIFSpec(), LIFState(good, None, good), (2, 3), "float64")
    with pytest.raises(TypeError, match="dtype of x"):
        check_state(LIFSpec(), LIFState(good.astype("float32")), (2, 3), "float64")
    with pytest.raises(TypeError, match="LIFState or None"):
        check_state(LIFSpec(), good, (2, 3), "float64")


def test_a_loss_may_be_named_by_its_composition():
    assert as_loss("losses") == LossSpec()
    assert as_loss("logits") == LossSpec(combine="logits")
    distilled = LossSpec(distillation=0.5)
    assert as_loss(distilled) is distilled
    with pytest.raises(ValueError, match="combine must be one of 'logits', 'losses'; got 'sum'"):
        as_loss("sum")
    with pytest.raises(TypeError, match="loss must be a LossSpec or one of"):
        as_loss(3)


@pytest.mark.parametrize(
    ("per_step", "logits", "labels", "batch_axis", "message"),
    [
        (False, (4, 2, 10), (2,), -2, r"shape \(batch, classes\) with per_step=False, got shape \(4, 2, 10\)"),
        (True, (2, 10), (2,), -2, "3 axes, time among them, with per_step=True"),
        (True, (4, 2, 10), (4,), -2, r"labels must have shape \(2,\), got \(4,\)"),
        (True, (2, 4, 10), (4,), 0, r"labels must have shape \(2,\), got \(4,\)"),
        (False, (2, 10), (2, 1), -2, r"labels must have shape \(2,\), got \(2, 1\)"),
    ],
)
def test_logits_and_labels_that_do_not_fit_a_loss_are_refused(per_step, logits, labels, batch_axis, message):
    with pytest.raises(ValueError, match=message):
        LossSpec(per_step=per_step).check_logits(logits, labels, batch_axis=batch_axis)


def test_labels_are_integer_classes_or_floating_probabilities():
    spec = LossSpec()
    assert spec.check_logits((2, 10), (2, 10), labels_dtype="torch.float32")
    assert not spec.check_logits((2, 10), (2,), labels_dtype="uint8")
    with pytest.raises(ValueError, match=r"labels must have shape \(2, 10\), got \(2, 9\)"):
        spec.check_logits((2, 10), (2, 9), labels_dtype="float32")
    for shape, dtype, message in (
        ((2,), "float32", "of shape .* must be integer classes, got float32; soft labels have shape"),
        ((2, 10), "int64", "must be floating probabilities, got int64"),
        ((2,), "bool", "must be integer classes or floating probabilities, got bool"),
        ((2, 10), "complex64", "must be integer classes or floating probabilities, got complex64"),
    ):
        with pytest.raises(TypeError, match=message):
            spec.check_logits((2, 10), shape, labels_dtype=dtype)


def test_a_size_that_is_not_known_yet_fits():
    LossSpec(per_step=True).check_logits((4, None, 10), (2,))
    LossSpec().check_logits((2, 10), (None,))
