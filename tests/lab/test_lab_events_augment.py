"""Augmentations of recordings: what each conserves, and that it does what its name says."""

import numpy as np
import pytest

from sbp_lab.augment import Augmentation, CutMix
from sbp_lab.events import EventCutMix, EventDrop, EventFlip, EventRoll, Events, Frames

ALL = [
    EventFlip(),
    EventRoll(),
    EventRoll(pixels=3, of=(5, 6)),
    EventDrop(probability=1.0),
    EventDrop(by=("time",), probability=1.0),
    EventDrop(by=("area",), probability=1.0, area=1.0),
    EventDrop(by=("random",), probability=1.0, random=1.0),
]
SIZE = (14, 23)


def recording(seed, count=400):
    rng = np.random.default_rng(seed)
    height, width = SIZE
    return Events(
        t=np.sort(rng.integers(0, 3000, count)) + 50,
        x=rng.integers(0, width, count),
        y=rng.integers(0, height, count),
        p=rng.integers(0, 2, count),
        size=SIZE,
    )


def rows(events):
    return list(zip(*(getattr(events, name).tolist() for name in ("t", "x", "y", "p")), strict=True))


@pytest.mark.parametrize("augment", ALL, ids=repr)
def test_every_augmentation_keeps_sensor_order_of_time_and_polarities_and_leaves_its_input_alone(augment):
    changed = 0
    for seed in range(30):
        events = recording(seed)
        before = rows(events)
        found = augment(events, np.random.default_rng(seed))
        assert rows(events) == before
        assert found.size == SIZE
        assert (np.diff(found.t) >= 0).all()
        assert 0 <= found.x.min(initial=0) <= found.x.max(initial=0) < SIZE[1]
        assert 0 <= found.y.min(initial=0) <= found.y.max(initial=0) < SIZE[0]
        if isinstance(augment, EventDrop):
            rest = iter(before)
            assert all(row in rest for row in rows(found))  # a part of the events, in their order
        else:
            np.testing.assert_array_equal(found.t, events.t)
            np.testing.assert_array_equal(found.p, events.p)
        changed += rows(found) != before
    assert changed > 10


@pytest.mark.parametrize("augment", ALL, ids=repr)
def test_what_is_drawn_depends_on_the_generator_alone(augment):
    events = recording(0)
    twice = [[augment(events, rng) for _ in range(5)] for rng in (np.random.default_rng(9), np.random.default_rng(9))]
    assert twice[0] == twice[1]
    other = np.random.default_rng(10)
    assert twice[0] != [augment(events, other) for _ in range(5)]


@pytest.mark.parametrize("augment", ALL, ids=repr)
def test_a_recording_of_no_event_or_of_one_stays_a_recording(augment):
    for count in (0, 1):
        for seed in range(5):
            assert len(augment(recording(0, count), np.random.default_rng(seed))) <= count


@pytest.mark.parametrize("augment", [*ALL, EventCutMix(alpha=0.5)], ids=repr)
def test_an_augmentation_is_a_spec_that_json_keeps(augment):
    assert Augmentation.from_json(augment.to_json()) == augment
    assert augment.kind.startswith("event_")
    assert augment.stage == ("batch" if isinstance(augment, EventCutMix) else "stored")


def test_a_flipped_recordings_frames_are_the_frames_mirrored():
    events, frames = recording(1), Frames(steps=3)
    flipped = EventFlip(probability=1.0)(events, np.random.default_rng(0))
    np.testing.assert_array_equal(frames(flipped), frames(events)[:, :, ::-1])
    assert EventFlip(probability=0.0)(events, np.random.default_rng(0)) == events


def test_flips_are_as_frequent_as_their_probability():
    events, rng = recording(1, 3), np.random.default_rng(0)
    flips = sum(EventFlip(probability=0.3)(events, rng) != events for _ in range(1000))
    assert abs(flips - 300) < 60


def test_a_rolled_recordings_frames_are_the_frames_rolled_as_numpy_rolls_them_by_every_shift_alike():
    events, frames, rng = recording(2), Frames(steps=2), np.random.default_rng(0)
    plain = frames(events)
    shifts = {
        frames_of: (down, right)
        for down in range(-2, 3)
        for right in range(-2, 3)
        for frames_of in [np.roll(plain, (down, right), (1, 2)).tobytes()]
    }
    assert len(shifts) == 25
    found = [shifts[frames(EventRoll(pixels=2)(events, rng)).tobytes()] for _ in range(1000)]
    counts = np.unique(found, axis=0, return_counts=True)[1]
    assert len(counts) == 25
    assert counts.min() > 15
    assert counts.max() < 70


def test_a_shift_counted_in_pixels_of_the_frames_is_that_shift_in_them():
    rng = np.random.default_rng(0)
    events = Events(t=[0], x=[64], y=[64], p=[1], size=(128, 128))
    shifts = {int(EventRoll(pixels=5, of=(48, 48))(events, rng).x[0]) - 64 for _ in range(300)}
    assert shifts == {round(pixels * 128 / 48) for pixels in range(-5, 6)}


def gone(events, found):
    kept = iter(rows(found))
    following = next(kept, None)
    lost = []
    for row in rows(events):
        if row == following:
            following = next(kept, None)
        else:
            lost.append(row)
    return np.array(lost).reshape(-1, 4)


def test_dropping_by_time_drops_exactly_the_events_between_two_times_up_to_its_share():
    events, rng, longest = recording(3, 2000), np.random.default_rng(0), 0
    for _ in range(60):
        lost = gone(events, EventDrop(by=("time",), probability=1.0, time=0.4)(events, rng))
        if len(lost):
            first, last = lost[:, 0].min(), lost[:, 0].max()
            assert len(lost) == ((events.t >= first) & (events.t <= last)).sum()
            longest = max(longest, last - first)
    assert 0.3 * events.duration < longest <= 0.4 * events.duration


def test_dropping_by_area_drops_exactly_the_events_in_a_box_up_to_its_share():
    events, rng, largest = recording(4, 4000), np.random.default_rng(0), 0.0
    for _ in range(60):
        lost = gone(events, EventDrop(by=("area",), probability=1.0, area=0.3)(events, rng))
        if len(lost):
            (left, right), (top, bottom) = ((lost[:, c].min(), lost[:, c].max()) for c in (1, 2))
            inside = (events.x >= left) & (events.x <= right) & (events.y >= top) & (events.y <= bottom)
            assert len(lost) == inside.sum()
            largest = max(largest, (right + 1 - left) * (bottom + 1 - top) / (SIZE[0] * SIZE[1]))
    assert 0.2 < largest < 0.36  # sides are whole pixels


def test_dropping_at_random_drops_half_of_its_share_on_average_anywhere():
    events, rng = recording(5, 2000), np.random.default_rng(0)
    drop = EventDrop(by=("random",), probability=1.0, random=0.8)
    shares = [1 - len(drop(events, rng)) / 2000 for _ in range(200)]
    assert max(shares) < 0.85
    assert abs(np.mean(shares) - 0.4) < 0.06


def test_drop_takes_each_way_as_often_and_nothing_in_the_rest():
    events, rng = recording(6, 50), np.random.default_rng(0)
    drop = EventDrop(by=("time", "random"), probability=0.5, time=0.0, random=1.0)
    same = sum(drop(events, rng) == events for _ in range(600))
    # half are left alone, a quarter drops no time, and of the last quarter 1 in 50 drops nobody
    assert abs(same - 600 * 0.755) < 50


def batch(rng, count=6):
    return 1 + rng.poisson(3.0, (count, 3, 8, 10, 2)).astype(np.float32), np.eye(count, dtype=np.float32)


def test_cut_mix_makes_each_result_of_a_samples_events_outside_a_box_and_anothers_inside():
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(20):
        frames, labels = batch(rng)
        kept = frames.copy()
        mixed, shares = EventCutMix(probability=1.0).on_batch(frames, labels, rng)
        np.testing.assert_array_equal(frames, kept)
        assert mixed.dtype == shares.dtype == np.float32
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
        for sample, share in enumerate(shares):
            others = [other for other in np.flatnonzero(share) if other != sample] or [sample]
            (other,) = others
            box = (mixed[sample] != frames[sample]).any((0, 3))
            if not box.any():
                continue
            y, x = np.nonzero(box)
            area = np.zeros((8, 10), bool)
            area[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
            expected = np.where(area[None, :, :, None], frames[other], frames[sample])
            np.testing.assert_array_equal(mixed[sample], expected)
            sizes.add(int(area.sum()))
    assert len(sizes) > 10


def test_cut_mixs_labels_are_the_shares_of_the_events_and_of_the_area_where_there_are_none():
    rng = np.random.default_rng(1)
    for _ in range(20):
        # every sample's events have a number of their own, so that a result says whose are whose
        whose = np.arange(1, 5, dtype=np.float32)
        frames = (rng.random((4, 2, 6, 6, 2)) < 0.3) * whose[:, None, None, None, None]
        frames[3] = 0
        mixed, shares = EventCutMix(probability=1.0).on_batch(frames, np.eye(4, dtype=np.float32), rng)
        for result, share in zip(mixed, shares, strict=True):
            total = result.sum()
            if total:
                expected = [result[result == number].sum() / total for number in whose]
                np.testing.assert_allclose(share, expected, atol=1e-6)
            else:
                np.testing.assert_allclose(share.sum(), 1, atol=1e-6)
    empty = np.zeros((4, 1, 6, 6, 2), np.float32)
    ours = EventCutMix(probability=1.0).on_batch(empty, np.eye(4, dtype=np.float32), np.random.default_rng(3))[1]
    assert np.isin(np.round(ours * 36, 4), np.arange(37)).all()


def test_cut_mix_is_as_frequent_as_its_probability_and_the_plain_one_takes_frames_too():
    rng = np.random.default_rng(2)
    frames, labels = batch(rng)
    same = sum(EventCutMix(probability=0.25).on_batch(frames, labels, rng)[0] is frames for _ in range(400))
    assert abs(same - 300) < 40
    mixed, _ = CutMix().on_batch(frames, labels, rng)
    assert mixed.shape == frames.shape
    with pytest.raises(ValueError, match=r"images must be frames .*got shape \(6, 8, 10, 2\)"):
        EventCutMix().on_batch(frames[:, 0], labels, rng)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EventFlip(probability=1.5), r"probability must lie in \[0, 1\]"),
        (lambda: EventRoll(pixels=0), "pixels must be at least 1"),
        (lambda: EventRoll(of=(48,)), "of must be"),
        (lambda: EventDrop(by=()), "by must be some of 'time', 'area' and 'random'"),
        (lambda: EventDrop(by="time"), "as a tuple; got 'time'"),
        (lambda: EventDrop(by=("place",)), "by must be one of"),
        (lambda: EventDrop(area=-0.1), r"area must lie in \[0, 1\]"),
        (lambda: EventCutMix(alpha=0.0), "alpha must be greater than 0"),
    ],
)
def test_augmentations_refuse_fields_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
