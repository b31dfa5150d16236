"""Recordings and the frames made of them, against loops over single events."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from sbp_lab.events import Events, Frames


def recording(rng, count, size=(6, 9), span=1000):
    height, width = size
    return Events(
        t=np.sort(rng.integers(0, span, count)) + 17,
        x=rng.integers(0, width, count),
        y=rng.integers(0, height, count),
        p=rng.integers(0, 2, count),
        size=size,
    )


def counted(events, steps, step_of):
    """Count event by event, into the step that ``step_of(number, event's time from the first)`` says, or none."""
    frames = np.zeros((steps, *events.size, 2))
    for number, (t, x, y, p) in enumerate(zip(events.t, events.x, events.y, events.p, strict=True)):
        step = step_of(number, int(t) - int(events.t[0]))
        if step is not None and step < steps:
            frames[step, y, x, p] += 1
    return frames


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 40, 500])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_frames_by_count_split_the_events_in_order_into_parts_that_differ_by_one_at_most(count, steps):
    events = recording(np.random.default_rng(count), count)
    frames = Frames(by="count", steps=steps)(events)
    sizes = frames.sum((1, 2, 3))
    assert frames.dtype == np.float32
    assert sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1
    ends = np.cumsum(sizes)
    np.testing.assert_array_equal(frames, counted(events, steps, lambda n, _: int(np.searchsorted(ends, n, "right"))))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 500])
@pytest.mark.parametrize("steps", [1, 3, 7, 10])
@pytest.mark.parametrize("span", [1, 3, 997, 1000])
def test_frames_by_time_cut_the_recording_into_equal_parts_and_lose_no_event(count, steps, span):
    events = recording(np.random.default_rng(count), count, span=span)
    length = events.duration

    def step(_, t):
        return min(int(Fraction(t * steps, length)), steps - 1) if length else steps - 1

    frames = Frames(by="time", steps=steps)(events)
    assert frames.sum() == count
    np.testing.assert_array_equal(frames, counted(events, steps, step))


@pytest.mark.parametrize(("by", "window"), [("time", 1), ("time", 130), ("time", 5000), ("count", 1), ("count", 60)])
def test_windows_hold_what_is_in_them_and_nothing_later(by, window):
    events = recording(np.random.default_rng(0), 400)
    frames = Frames(by=by, steps=4, window=window)(events)
    expected = counted(events, 4, lambda n, t: (t if by == "time" else n) // window)
    np.testing.assert_array_equal(frames, expected)


def test_windows_too_large_for_64_bits_hold_everything_in_the_first_step():
    events = recording(np.random.default_rng(0), 50)
    for by in ("time", "count"):
        assert Frames(by=by, steps=3, window=2**62)(events).sum((1, 2, 3)).tolist() == [50, 0, 0]


def test_channel_0_is_darker_and_channel_1_brighter_with_rows_from_the_top():
    events = Events(t=[0, 1], x=[3, 0], y=[1, 2], p=[1, 0], size=(3, 4))
    frame = Frames(steps=1)(events)[0]
    assert frame[1, 3].tolist() == [0, 1]
    assert frame[2, 0].tolist() == [1, 0]
    assert frame.sum() == 2


@pytest.mark.parametrize("small", [(1, 1), (3, 3), (2, 9), (4, 5), (6, 9)])
def test_a_smaller_picture_shares_each_pixel_by_area_and_keeps_the_sum(small):
    events = recording(np.random.default_rng(1), 300)
    frames, large = Frames(steps=2, size=small)(events), Frames(steps=2)(events)
    expected = np.zeros((2, *small, 2))
    for y in range(6):
        for x in range(9):
            for v in range(small[0]):
                for u in range(small[1]):
                    tall = min(Fraction(y + 1, 6), Fraction(v + 1, small[0])) - max(
                        Fraction(y, 6), Fraction(v, small[0])
                    )
                    wide = min(Fraction(x + 1, 9), Fraction(u + 1, small[1])) - max(
                        Fraction(x, 9), Fraction(u, small[1])
                    )
                    if tall > 0 and wide > 0:
                        expected[:, v, u] += large[:, y, x] * float(tall * wide * 54)
    assert frames.shape == Frames(steps=2, size=small).shape((6, 9)) == (2, *small, 2)
    np.testing.assert_allclose(frames, expected, rtol=1e-5)
    np.testing.assert_allclose(frames.sum((1, 2, 3)), large.sum((1, 2, 3)), rtol=1e-5)


def test_an_even_picture_stays_even_when_128_pixels_become_48():
    grid = np.arange(128 * 128)
    events = Events(t=grid, x=grid % 128, y=grid // 128, p=np.ones(len(grid), int), size=(128, 128))
    frames = Frames(steps=1, size=(48, 48))(events)
    np.testing.assert_allclose(frames[0, :, :, 1], (128 / 48) ** 2, rtol=1e-5)


def test_peak_divides_each_frame_by_its_largest_value_and_leaves_empty_ones_empty():
    events = Events(t=[0, 1, 2, 900], x=[0, 0, 1, 1], y=[0, 0, 0, 0], p=[1, 1, 0, 1], size=(1, 2))
    frames = Frames(by="time", steps=3, scale="peak")(events)
    assert frames[0].tolist() == [[[0, 1], [0.5, 0]]]
    assert frames[1].tolist() == [[[0, 0], [0, 0]]]
    assert frames[2].tolist() == [[[0, 0], [0, 1]]]


def test_a_recording_of_no_event_gives_empty_frames():
    empty = Events(t=[], x=[], y=[], p=[], size=(2, 3))
    for by in ("count", "time"):
        for window in (None, 5):
            frames = Frames(by=by, steps=4, window=window)(empty)
            assert frames.shape == (4, 2, 3, 2)
            assert not frames.any()


def test_frames_are_a_spec_that_json_keeps():
    frames = Frames(by="time", steps=4, window=10_000, size=(48, 48), scale="peak")
    assert Frames.from_json(frames.to_json()) == frames


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "number"}, "by must be one of 'count', 'time'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"window": 0}, "window must be at least 1"),
        ({"size": (48,)}, "size must be"),
        ({"size": (0, 3)}, "at least 1"),
        ({"scale": "log"}, "scale must be one of"),
    ],
)
def test_frames_refuse_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Frames(**fields)


def test_frames_larger_than_the_sensor_are_refused():
    with pytest.raises(ValueError, match=r"size must be at most the sensor's, \(6, 9\), got \(7, 9\)"):
        Frames(size=(7, 9))(recording(np.random.default_rng(0), 5))


GOOD = {"t": [0, 5, 5], "x": [0, 1, 3], "y": [0, 2, 1], "p": [1, 0, 1], "size": (3, 4)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [0, 1, 4]}, ValueError, r"x must lie in 0 .. 3 .*got 4 in event 2"),
        ({"x": [0, -1, 3]}, ValueError, r"x must lie in 0 .. 3 .*got -1 in event 1"),
        ({"y": [3, 0, 0]}, ValueError, r"y must lie in 0 .. 2 .*got 3 in event 0"),
        ({"p": [1, 0, 2]}, ValueError, r"p must lie in 0 .. 1 .*got 2 in event 2"),
        ({"p": [1, 0, -1]}, ValueError, r"p must lie in 0 .. 1 .*got -1 in event 2"),
        ({"t": [0, 5, 4]}, ValueError, "t must not go back, but event 2 is at 4 us after one at 5 us"),
        ({"t": [0, 5]}, ValueError, "one length, got 2 t, 3 x"),
        ({"t": [[0, 5, 6]]}, ValueError, "t must have one axis"),
        ({"t": [0.0, 5.0, 6.0]}, TypeError, "t must be integers, got float64"),
        ({"t": np.array([0, 5, 2**63], np.uint64)}, ValueError, "t must lie in 0 .. 9223372036854775807"),
        ({"size": (3, 4, 2)}, ValueError, "size must be"),
        ({"size": (3, 40_000)}, ValueError, "at most 32768"),
        ({"size": 3}, TypeError, "size must be a sequence"),
    ],
)
def test_events_refuse_what_is_no_recording(change, error, message):
    assert len(Events(**GOOD)) == 3
    with pytest.raises(error, match=message):
        Events(**GOOD | change)


def test_events_are_read_only_also_after_pickling_and_leave_the_callers_arrays_alone():
    own = np.array([0, 5, 5])
    events = Events(**GOOD | {"t": own})
    copy = pickle.loads(pickle.dumps(events))
    assert copy == events
    assert (copy.t.dtype, copy.x.dtype, copy.y.dtype, copy.p.dtype) == (np.int64, np.int16, np.int16, np.uint8)
    for some in (events, copy, events[1:]):
        for name in ("t", "x", "y", "p"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(some, name)[0] = 0
    own[0] = 1


def test_events_are_equal_where_all_arrays_and_the_sensor_are():
    events = Events(**GOOD)
    assert events == Events(**GOOD)
    for change in ({"t": [0, 5, 6]}, {"x": [0, 1, 2]}, {"y": [0, 2, 2]}, {"p": [1, 0, 0]}, {"size": (3, 5)}):
        assert events != Events(**GOOD | change)
    assert events != events[:2]
    assert events != "events"


def test_selected_events_keep_their_order_and_sensor():
    events = Events(**GOOD)
    assert events[events.p == 1] == Events(t=[0, 5], x=[0, 3], y=[0, 1], p=[1, 1], size=(3, 4))
    assert events[::2] == events[np.array([0, 2])]
    with pytest.raises(ValueError, match="t must not go back"):
        events[np.array([2, 0])]
