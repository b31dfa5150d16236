"""The geometry of tapped outputs and logits."""

import itertools

import numpy as np
import pytest

from sbp_core.inputs import frames_time_axis
from sbp_core.taps import TIME_AXES, Main, TapLayout, check_time_axis, resolve_time_axis, same_shape

TIME, BATCH, CHANNELS, SPACE = 4, 3, 7, (5, 6)


def lying(time_axis, channels, space):
    """Return an output that lies so, its layout, and the same values as ``(time, batch, channels, *space)``."""
    steps = () if time_axis is None else (TIME,)
    plain = np.arange(np.prod([*steps, BATCH, CHANNELS, *space], dtype=int)).reshape(*steps, BATCH, CHANNELS, *space)
    leading = len(steps) + 1
    array = plain if channels == "first" else np.moveaxis(plain, leading, -1)
    array = array.swapaxes(0, 1) if time_axis == 1 else array
    layout = TapLayout(time_axis=time_axis, channels=channels, time_steps=TIME if time_axis == "merged" else None)
    given = array.reshape(-1, *array.shape[2:]) if time_axis == "merged" else array
    return given, layout, plain


@pytest.mark.parametrize("space", [(), (5,), SPACE], ids=len)
@pytest.mark.parametrize(("time_axis", "channels"), list(itertools.product(TIME_AXES, ["first", "last"])))
def test_axes_bring_every_layout_to_time_batch_channels_space(time_axis, channels, space):
    given, layout, plain = lying(time_axis, channels, space)
    axes = layout.check_tap("t", given.shape, layout.check_main((BATCH, 10), 10))
    found = given.reshape(layout.split(given.shape)).transpose(axes.time_first)
    np.testing.assert_array_equal(found, plain)
    last = given.reshape(layout.split(given.shape)).transpose(axes.time_first_channels_last)
    np.testing.assert_array_equal(np.moveaxis(last, -1, plain.ndim - 1 - len(space)), plain)


def test_a_channel_axis_may_be_a_number():
    assert TapLayout(channels=3).axes(5).time_first == (0, 1, 3, 2, 4)
    assert TapLayout(channels=-1).axes(5) == TapLayout(channels="last").axes(5)
    with pytest.raises(ValueError, match="channels must be an axis after batch and time"):
        TapLayout(channels=1)
    with pytest.raises(TypeError, match="channels must be 'first', 'last' or an axis"):
        TapLayout(channels=2.0)


@pytest.mark.parametrize("time_axis", [2, True, 1.0, "batch", -1])
def test_no_other_time_axis_is_taken(time_axis):
    with pytest.raises(ValueError, match="time_axis must be 0, 1, None, 'calls' or 'merged'"):
        check_time_axis(time_axis)


@pytest.mark.parametrize(
    ("time_axis", "shape", "main"),
    [
        (0, (BATCH, 10), Main(BATCH, None, "mean")),
        (0, (TIME, BATCH, 10), Main(BATCH, TIME, "steps")),
        (1, (BATCH, TIME, 10), Main(BATCH, TIME, "steps")),
        ("calls", (TIME, BATCH, 10), Main(BATCH, TIME, "steps")),
        ("merged", (TIME, BATCH, 10), Main(BATCH, TIME, "steps")),
        ("merged", (TIME * BATCH, 10), Main(BATCH, TIME, "merged")),
        ("merged", (BATCH, 10), Main(BATCH, None, "mean")),
    ],
)
def test_main_logits_are_told_apart(time_axis, shape, main):
    layout = TapLayout(time_axis=time_axis, time_steps=TIME if time_axis == "merged" else None)
    assert layout.check_main(shape, 10, items=TIME * BATCH) == main


@pytest.mark.parametrize(
    ("time_axis", "shape"), [(0, (4, 1)), (0, (4, 5)), (None, (4, 3, 10)), (0, (10,)), (0, (2, 2, 4, 10)), (1, ())]
)
def test_logits_of_other_classes_or_axes_are_refused(time_axis, shape):
    with pytest.raises(ValueError, match=r"net must return logits of shape \(batch, num_classes\) = \(batch, 10\)"):
        TapLayout(time_axis=time_axis).check_main(shape, 10)


def test_a_wrong_layout_names_those_that_fit():
    main = Main(2, None, "mean")
    with pytest.raises(ValueError, match=r"pass time_axis=1 for \(batch, time, channels, ...\)") as caught:
        TapLayout(time_axis=0).check_tap("layer1", (2, 10, 8, 5, 5), main)
    assert "time_axis=0 for" not in str(caught.value)
    with pytest.raises(ValueError, match="time_axis='merged', time_steps=5"):
        TapLayout(time_axis=0).check_tap("layer1", (10, 8, 5, 5), main)
    with pytest.raises(ValueError, match=r"no \(time \* batch, channels, ...\) .* and time_steps=4"):
        TapLayout(time_axis="merged", time_steps=4).check_tap("layer1", (10, 8, 5, 5), main)


def test_other_steps_than_the_main_logits_are_refused():
    with pytest.raises(ValueError, match="must have the steps of the main logits, 5; it has 4"):
        TapLayout().check_tap("t", (4, 3, 8), Main(3, 5, "steps"))


def test_sizes_that_are_not_known_pass():
    layout = TapLayout(time_axis=1, channels="last")
    main = layout.check_main((None, None, 10), 10)
    assert layout.check_tap("t", (None, None, 8, 8, 16), main).channels == 4
    assert TapLayout(time_axis="merged", time_steps=4).split((None, 3)) == (4, None, 3)


def test_merged_time_and_its_steps_go_together():
    with pytest.raises(ValueError, match="time_steps must be given with time_axis='merged'"):
        TapLayout(time_axis="merged")
    with pytest.raises(ValueError, match="time_steps must be left out unless"):
        TapLayout(time_steps=4)


def test_time_is_never_guessed():
    assert resolve_time_axis("stated", [0, 0], "Net") == 0
    assert resolve_time_axis("merged", [], "Net") == "merged"
    assert resolve_time_axis(None, [0], "Net") is None
    with pytest.raises(ValueError, match=r"nothing in Net says where time is.*time_axis=0 for .*time_axis='merged'"):
        resolve_time_axis("stated", [], "Net")
    with pytest.raises(ValueError, match="parts of Net have time in axis 0 and 1"):
        resolve_time_axis("stated", [0, 1], "Net")
    with pytest.raises(ValueError, match="time_axis of Net must be"):
        resolve_time_axis("stated", [7], "Net")


def test_calls_of_several_shapes_are_refused():
    same_shape("cell", [(2, 3), (2, 3)])
    with pytest.raises(ValueError, match=r"tap 'cell' must give the same shape in every call, it gave \(1, 3\) and"):
        same_shape("cell", [(2, 3), (1, 3)])


def test_event_frames_of_another_layout_are_refused_or_asked_about():
    assert frames_time_axis((10, 2, 2, 34, 34), time_steps=10) == 0
    assert frames_time_axis((2, 10, 34, 34, 2), time_steps=10, convention=1) == 1
    assert frames_time_axis((None, 10, 34, 34, 2), time_steps=10, convention=1) == 1
    assert frames_time_axis((3, 2, 2, 34, 34), time_steps=10, time_axis=0) == 0
    assert frames_time_axis((2, 2, 34, 34), time_steps=10) is None
    with pytest.raises(ValueError, match=r"pass time_axis=1 if they are \(batch, time, ...\)"):
        frames_time_axis((2, 10, 2, 34, 34), time_steps=10)
    with pytest.raises(ValueError, match="time_axis=0 for another number of steps, time_axis=1 if"):
        frames_time_axis((2, 3, 2, 34, 34), time_steps=10)
    with pytest.raises(ValueError, match="as many samples as steps"):
        frames_time_axis((10, 10, 2, 34, 34), time_steps=10)
    with pytest.raises(ValueError, match="time_axis must be None for still images"):
        frames_time_axis((2, 2, 34, 34), time_steps=10, time_axis=0)
    with pytest.raises(ValueError, match="images must have 4 axes"):
        frames_time_axis((34, 34), time_steps=10)
