from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sbp_lab.augment import (
    BatchAugmentation,
    Crop,
    CutMix,
    Cutout,
    Flip,
    ImageAugmentation,
    MixUp,
    ResizedCrop,
)
from sbp_lab.data.source import ArraySplit, Source
from sbp_lab.events import EventCutMix, EventFlip, Frames
from sbp_lab.loader import Loader, SampleError
from tests.lab.samples import ALL, own_sizes, recordings, source


def test_images_are_normalised_by_the_training_images_figures():
    data = source()
    pixels = data.train.images.astype(np.float64)
    mean, deviation = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    loader = Loader(data, batch_size=50, seed=3)
    images, labels = next(loader.epoch(0))
    order = np.random.default_rng([3, 0]).permutation(50)
    np.testing.assert_allclose(images, (pixels[order] - mean) / deviation, atol=1e-5)
    np.testing.assert_array_equal(labels, data.train.labels[order])
    tested = np.concatenate([images for images, _ in loader.test()])
    np.testing.assert_allclose(tested, (data.test.images.astype(np.float64) - mean) / deviation, atol=1e-5)
    assert labels.dtype == np.int64


def test_a_channel_that_never_changes_becomes_zero():
    split = ArraySplit(np.full((4, 2, 2, 1), 7, np.uint8), np.zeros(4, np.int64))
    data = Source(name="flat", train=split, test=split, class_names=("a",), size=(2, 2))
    assert not next(Loader(data, batch_size=4, seed=0).epoch(0))[0].any()


def test_each_sample_draws_for_itself_whatever_the_batch_size():
    data = source(train=48)
    by_index = []
    for size in (4, 16):
        images = np.concatenate([images for images, _ in Loader(data, batch_size=size, seed=1, augment=ALL).epoch(7)])
        by_index.append(images)
    np.testing.assert_array_equal(*by_index)
    # another epoch or seed draws otherwise, for the same sample
    order = [
        np.argsort(np.random.default_rng([seed, epoch]).permutation(48)) for seed, epoch in ((1, 7), (1, 8), (2, 7))
    ]
    augment = (Crop(padding=6),)
    found = []
    for (seed, epoch), places in zip(((1, 7), (1, 8), (2, 7)), order, strict=True):
        batches = Loader(data, batch_size=48, seed=seed, augment=augment).epoch(epoch)
        found.append(next(batches)[0][places])
    for other in found[1:]:
        differing = [not np.array_equal(one, two) for one, two in zip(found[0], other, strict=True)]
        assert np.mean(differing) > 0.9


@dataclass(frozen=True, kw_only=True)
class Draws(ImageAugmentation):
    """Writes what it draws into the image."""

    kind: ClassVar[str] = "test_draws"

    def __call__(self, image, rng):
        image = image.copy()
        image[0, 0] = rng.integers(0, 256, 3)
        return image


def test_no_two_draws_are_the_same_by_construction_and_they_are_uniform():
    data = source(train=48)
    loader = Loader(data, batch_size=48, seed=0, augment=(Draws(),))
    drawn = []
    for epoch in range(30):
        images = next(loader.epoch(epoch))[0] * data.deviation + data.mean
        drawn += np.rint(images[:, 0, 0]).astype(int).tolist()
    assert len({tuple(each) for each in drawn}) > 0.999 * len(drawn)
    assert abs(np.mean(drawn) - 127.5) < 4 * 73.9 / np.sqrt(3 * len(drawn))


@dataclass(frozen=True, kw_only=True)
class DrawsLater(ImageAugmentation):
    """Writes what it draws into the normalised image."""

    kind: ClassVar[str] = "test_draws_later"
    stage: ClassVar[str] = "normalised"

    def __call__(self, image, rng):
        image = image.copy()
        image[0, 1] = rng.integers(0, 256, 3)
        return image


def test_what_is_drawn_before_and_after_normalising_is_not_the_same():
    data = source(train=48)
    images = next(Loader(data, batch_size=48, seed=0, augment=(Draws(), DrawsLater())).epoch(0))[0]
    before = np.rint(images[:, 0, 0] * data.deviation + data.mean)
    assert np.mean(before == images[:, 0, 1]) < 0.05


@dataclass(frozen=True, kw_only=True)
class DrawsMore(BatchAugmentation):
    """Adds what it draws for each sample."""

    kind: ClassVar[str] = "test_draws_more"

    def on_batch(self, images, labels, rng):
        return images + rng.integers(0, 2, (len(images), 1, 1, 1)).astype(np.float32), labels


def test_two_augmentations_of_a_batch_do_not_draw_the_same():
    data = source(train=48)
    plain, twice = (Loader(data, batch_size=48, seed=0, augment=(DrawsMore(),) * count) for count in (1, 2))
    sums = np.rint(next(twice.epoch(0))[0] - next(plain.epoch(0))[0])
    assert set(sums[:, 0, 0, 0]) == {0.0, 1.0}
    nothing = next(Loader(data, batch_size=48, seed=0).epoch(0))[0]
    first = np.rint(next(plain.epoch(0))[0] - nothing)
    assert not np.array_equal(first, sums)


def test_mixing_gives_shares_of_classes_and_a_row_of_them_for_each_sample():
    images, labels = next(Loader(source(), batch_size=8, seed=0, augment=(CutMix(),)).epoch(0))
    assert labels.shape == (8, 4)
    assert labels.dtype == images.dtype == np.float32
    np.testing.assert_allclose(labels.sum(1), 1.0, rtol=1e-6)


def test_recordings_become_frames_and_are_not_normalised():
    data = recordings()
    frames = Frames(by="count", steps=3)
    loader = Loader(data, batch_size=8, seed=0, frames=frames, augment=(MixUp(probability=0.0),))
    assert loader.sample_shape == (3, 6, 8, 2)
    inputs, labels = next(loader.epoch(0))
    order = np.random.default_rng([0, 0]).permutation(50)[:8]
    np.testing.assert_array_equal(inputs, np.stack([frames(data.train[int(index)]) for index in order]))
    np.testing.assert_array_equal(labels.argmax(1), data.train.labels[order])
    assert next(loader.test())[0].sum() == sum(5 + index for index in range(8))


def test_recordings_are_augmented_before_they_become_frames():
    data, frames = recordings(), Frames(by="time", steps=2)
    mirrored = Loader(data, batch_size=8, seed=0, frames=frames, augment=(EventFlip(probability=1.0),))
    plain = Loader(data, batch_size=8, seed=0, frames=frames)
    np.testing.assert_array_equal(next(mirrored.epoch(0))[0], next(plain.epoch(0))[0][..., ::-1, :])


def test_images_that_are_alike_are_stretched_to_a_size():
    data = source()
    images, _ = next(Loader(data, batch_size=23, seed=0, size=(6, 5)).test())
    means = data.test.images.reshape(23, 6, 2, 5, 2, 3).mean((2, 4))
    # Pillow's filter reaches a little further than the four pixels
    found = images * data.deviation + data.mean
    assert np.corrcoef(found.ravel(), means.ravel())[0, 1] > 0.9
    assert found.shape == means.shape


@pytest.mark.parametrize("size", [None, (16, 12)])
def test_images_of_their_own_sizes_are_brought_to_one(size):
    data = own_sizes()
    for augment in ((), (ResizedCrop(size=size or (8, 10)), Flip())):
        loader = Loader(data, batch_size=4, seed=0, size=size, augment=augment)
        images = next(loader.epoch(0))[0]
        assert images.shape == (4, *(size or (8, 10)), 3)
        # each is of one value, its index
        values = images * data.deviation + data.mean
        order = np.random.default_rng([0, 0]).permutation(50)[:4]
        np.testing.assert_allclose(values[:, 0, 0, 0], order, atol=1e-3)
    assert next(loader.test())[0].shape == (4, *(size or (8, 10)), 3)


@dataclass(frozen=True, kw_only=True)
class Smaller(ImageAugmentation):
    """Forgets a row."""

    kind: ClassVar[str] = "test_smaller"

    def __call__(self, image, rng):
        return image[1:]


@dataclass(frozen=True, kw_only=True)
class Fails(ImageAugmentation):
    """Raises."""

    kind: ClassVar[str] = "test_fails"

    def __call__(self, image, rng):
        raise IndexError("no row 99")


def test_an_augmentation_that_fails_is_named_with_the_sample():
    data = source()
    first = np.random.default_rng([0, 0]).permutation(50)[0]
    with pytest.raises(SampleError, match=rf"toy: training sample {first}: test_fails: IndexError: no row 99"):
        next(Loader(data, batch_size=4, seed=0, augment=(Fails(),)).epoch(0))
    with pytest.raises(SampleError, match=rf"sample {first}: must have shape \(12, 10, 3\), got \(11, 10, 3\)"):
        next(Loader(data, batch_size=4, seed=0, augment=(Smaller(),)).epoch(0))


def test_the_data_cannot_be_changed_by_an_augmentation():
    @dataclass(frozen=True, kw_only=True)
    class Writes(ImageAugmentation):
        kind: ClassVar[str] = "test_writes"

        def __call__(self, image, rng):
            image[:] = 0
            return image

    with pytest.raises(SampleError, match="test_writes: ValueError: assignment destination is read-only"):
        next(Loader(source(), batch_size=4, seed=0, augment=(Writes(),)).epoch(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 51}, r"batch_size must be at most 50, the training samples of toy; got 51"),
        ({"batch_size": 0}, r"batch_size must .*0"),
        ({"seed": -1}, r"seed must .*-1"),
        ({"workers": -1}, r"workers must .*-1"),
        ({"shard": (2, 2)}, r"shard must be \(index, count\) with index below count, got \(2, 2\)"),
        ({"shard": (0, 3)}, r"batch_size must be a multiple of the 3 shards, got 8"),
        ({"augment": (Cutout(), Flip())}, r"must have 'flip' before 'cutout', which acts on normalised images"),
        ({"augment": (MixUp(), Cutout())}, r"must have 'cutout' before 'mix_up', which acts on whole batches"),
        ({"augment": (Flip(), ResizedCrop(size=(12, 10)))}, r"must begin with 'resized_crop'"),
        ({"augment": (ResizedCrop(size=(9, 9)),)}, r"'resized_crop' of size=\(12, 10\), the images'"),
        ({"frames": Frames()}, r"frames must be None for toy, whose samples are images"),
        ({"size": (0, 4)}, r"size\[0\] must be at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Loader(source(), **({"batch_size": 8, "seed": 0} | arguments))


def test_what_changes_images_is_refused_for_events_and_the_other_way_round():
    with pytest.raises(ValueError, match="frames must be given for toy, whose samples are recordings of events"):
        Loader(recordings(), batch_size=8, seed=0)
    with pytest.raises(ValueError, match="must not have 'flip', which changes images; toy has events"):
        Loader(recordings(), batch_size=8, seed=0, frames=Frames(), augment=(Flip(),))
    with pytest.raises(ValueError, match=r"size must be None for events, or that of frames, \(6, 8\); got \(3, 3\)"):
        Loader(recordings(), batch_size=8, seed=0, frames=Frames(), size=(3, 3))

    for augment in ((EventFlip(),), (EventCutMix(),)):
        kind = augment[0].kind
        with pytest.raises(ValueError, match=f"must not have '{kind}', which changes events; toy has images"):
            Loader(source(), batch_size=8, seed=0, augment=augment)
    with pytest.raises(TypeError, match="augment must hold augmentations, got str at 0"):
        Loader(source(), batch_size=8, seed=0, augment=("flip",))
