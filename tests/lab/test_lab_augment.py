from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sbp_lab.augment import (
    Augmentation,
    AutoAugment,
    BatchAugmentation,
    Crop,
    CutMix,
    Cutout,
    Flip,
    ImageAugmentation,
    MixUp,
    ResizedCrop,
)
from sbp_lab.augment.images import resize

IMAGES = [Flip(), Crop(), ResizedCrop(size=(16, 16)), Cutout(size=8), AutoAugment()]
BATCHES = [MixUp(), CutMix()]


def picture(height=32, width=32, channels=3, dtype=np.uint8):
    return np.random.default_rng(2).integers(1, 256, (height, width, channels)).astype(dtype)


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("spec", [*IMAGES, *BATCHES], ids=lambda spec: spec.kind)
def test_a_spec_survives_json(spec):
    assert Augmentation.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("spec", IMAGES, ids=lambda spec: spec.kind)
def test_an_image_is_changed_by_the_generator_alone_and_the_given_one_stays(spec):
    image = picture(dtype=np.float32 if spec.stage == "normalised" else np.uint8)
    before = image.copy()
    results = [[spec(image, rng) for _ in range(12)] for rng in (generator(4), generator(4), generator(5))]
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert all(found.dtype == image.dtype and found.ndim == 3 for found in results[0])


@pytest.mark.parametrize("spec", BATCHES, ids=lambda spec: spec.kind)
def test_a_batch_is_changed_by_the_generator_alone_and_the_given_one_stays(spec):
    images = np.stack([picture(dtype=np.float32) + n for n in range(4)])
    labels = np.eye(4, dtype=np.float32)
    before = images.copy()
    first, second, third = (spec.on_batch(images, labels, generator(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(labels, np.eye(4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], third[0])
    assert first[0].dtype == first[1].dtype == np.float32
    np.testing.assert_allclose(first[1].sum(axis=1), 1.0, rtol=1e-6)


def test_a_flip_mirrors_left_and_right_half_of_the_time():
    image, rng = picture(4, 5), generator()
    found = [Flip()(image, rng) for _ in range(400)]
    mirrored = sum(np.array_equal(one, np.fliplr(image)) for one in found)
    assert mirrored + sum(np.array_equal(one, image) for one in found) == 400
    assert abs(mirrored - 200) < 4 * 10
    assert np.array_equal(Flip(probability=0.0)(image, rng), image)


@pytest.mark.parametrize("padding", [0, 1, 4, 9])
def test_a_crop_is_a_window_of_the_padded_image_each_as_often(padding):
    image, rng = picture(5, 4), generator()
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), constant_values=7)
    windows = {
        padded[top : top + 5, left : left + 4].tobytes()
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }
    found = [Crop(padding=padding, fill=7)(image, rng) for _ in range(200 if padding > 1 else 100)]
    assert {one.tobytes() for one in found} <= windows
    if padding <= 1:
        assert len({one.tobytes() for one in found}) == (2 * padding + 1) ** 2


def test_cutout_zeroes_a_square_whose_middle_may_be_any_pixel():
    image, rng = np.ones((6, 7, 2), np.float32), generator()
    squares = set()
    for row in range(6):
        for column in range(7):
            cut = np.ones((6, 7, 2), np.float32)
            cut[max(0, row - 2) : row + 2, max(0, column - 2) : column + 2] = 0
            squares.add(cut.tobytes())
    found = {Cutout(size=4)(image, rng).tobytes() for _ in range(600)}
    assert found == squares
    assert Cutout(size=99)(image, rng).sum() == 0


def test_cutout_cuts_as_many_holes_as_asked():
    image, rng = np.ones((40, 40, 1), np.float32), generator()
    most = max(int((Cutout(size=2, holes=3)(image, rng) == 0).sum()) for _ in range(50))
    assert most == 12


def test_mix_up_is_the_convex_sum_of_inputs_and_labels_with_one_share():
    images = 10.0 ** np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 3, 2), np.float32)
    labels = np.eye(4, dtype=np.float32)
    mixed, shares = MixUp().on_batch(images, labels, generator(7))
    # a label says whose part each sample is
    wanted = np.einsum("ij,jhwc->ihwc", shares.astype(np.float64), images.astype(np.float64))
    np.testing.assert_allclose(mixed, wanted, rtol=1e-5)
    kept = np.diag(shares)[np.diag(shares) < 1]
    assert np.ptp(kept) < 1e-6


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 1 / (4 * 1.4))])
def test_mix_ups_share_has_a_beta_distribution(alpha, variance):
    labels, images, rng = np.eye(2, dtype=np.float32), np.zeros((2, 1, 1, 1), np.float32), generator()
    shares = []
    while len(shares) < 1500:
        found = MixUp(alpha=alpha).on_batch(images, labels, rng)[1][0, 0]
        shares += [found] if found != 1.0 else []
    assert abs(np.mean(shares) - 0.5) < 0.04
    assert abs(np.var(shares) - variance) < 0.01


@pytest.mark.parametrize("shape", [(6, 8, 3), (5, 6, 8, 2)], ids=["images", "frames"])
def test_cut_mix_pastes_a_rectangle_whose_area_is_the_labels_share(shape):
    labels = np.eye(3, dtype=np.float32)
    images = np.broadcast_to(np.arange(3, dtype=np.float32).reshape(3, *[1] * len(shape)), (3, *shape))
    rng = generator()
    sizes = set()
    for _ in range(60):
        mixed, shares = CutMix().on_batch(images, labels, rng)
        for n in range(3):
            other = mixed[n] != n
            np.testing.assert_allclose(1 - other.mean(), shares[n, n], atol=1e-6)
            plane = other.reshape(-1, *shape[-3:])
            assert (plane == plane[:1, :, :, :1]).all()
            rows, columns = (np.flatnonzero(plane[0, :, :, 0].any(axis=axis)) for axis in (1, 0))
            assert plane[0, :, :, 0].sum() == len(rows) * len(columns)
            if len(rows):
                assert np.ptp(rows) + 1 == len(rows)
                assert np.ptp(columns) + 1 == len(columns)
            sizes.add((len(rows), len(columns)))
    assert len(sizes) > 8


@pytest.mark.parametrize("spec", [MixUp(probability=0.3), CutMix(probability=0.3)], ids=lambda spec: spec.kind)
def test_mixing_leaves_a_batch_alone_as_often_as_asked(spec):
    images, labels, rng = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1), np.eye(8, dtype=np.float32), generator()
    mixed = sum(spec.on_batch(images, labels, rng)[1] is not labels for _ in range(400))
    assert abs(mixed - 120) < 4 * np.sqrt(400 * 0.3 * 0.7)


def test_a_resized_crop_takes_a_part_within_its_bounds():
    # columns count along the width, so the result says where it comes from
    image = np.broadcast_to(np.arange(200, dtype=np.float32)[None, :, None], (100, 200, 1))
    rng, shares = generator(), []
    spec = ResizedCrop(size=(10, 10), scale=(0.2, 0.5))
    for _ in range(100):
        top, left, height, width = spec._part(100, 200, rng)
        shares.append(height * width / 20000)
        assert 0.74 < width / height < 1.35
        assert 0 <= top <= 100 - height
        assert 0 <= left <= 200 - width
    assert min(shares) > 0.19
    assert max(shares) < 0.51
    wide = [ResizedCrop(ratio=(2.0, 3.0), scale=(0.1, 0.2))._part(100, 200, rng) for _ in range(20)]
    assert all(1.9 < width / height < 3.1 for _, _, height, width in wide)
    found = spec(image, rng)
    assert found.shape == (10, 10, 1)
    assert (np.diff(found[0, :, 0]) > 0).all()


def test_a_resized_crop_of_a_strip_is_its_middle():
    top, left, height, width = ResizedCrop(scale=(1.0, 1.0))._part(10, 100, generator())
    assert (top, height, width, left) == (0, 10, 13, 43)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resizing_to_a_half_is_near_the_mean_of_four_pixels(channels, dtype):
    rows, columns = np.mgrid[0:16, 0:16]
    image = ((rows * 5 + columns * 3)[..., None] + np.arange(channels) * 20).astype(dtype)
    found = resize(image, (8, 8))
    assert found.dtype == dtype
    means = image.reshape(8, 2, 8, 2, channels).mean(axis=(1, 3))
    np.testing.assert_allclose(found[1:-1, 1:-1], means[1:-1, 1:-1], atol=1.0)
    assert resize(image, (16, 16)) is image


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(probability=1.5), r"probability must .*1\.5"),
        (lambda: Crop(padding=-1), r"padding must .*-1"),
        (lambda: Crop(fill=300), r"fill must be an integer in 0 \.\. 255, got 300"),
        (lambda: Cutout(size=0), r"size must .*0"),
        (lambda: MixUp(alpha=0.0), r"alpha must .*0"),
        (lambda: CutMix(probability=-0.1), r"probability must .*-0\.1"),
        (lambda: ResizedCrop(size=(3, 4, 5)), r"size must be \(height, width\), got \(3, 4, 5\)"),
        (lambda: ResizedCrop(scale=(0.5, 0.2)), r"scale must be \(least, greatest\), got \(0\.5, 0\.2\)"),
        (lambda: ResizedCrop(scale=(0.5, 2.0)), r"scale must be at most 1"),
    ],
)
def test_a_field_out_of_range_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_users_own_augmentation_is_known_by_name():
    @dataclass(frozen=True, kw_only=True)
    class Negative(ImageAugmentation):
        kind: ClassVar[str] = "test_negative"

        def __call__(self, image, rng):
            return 255 - image

    assert Augmentation.from_dict({"kind": "test_negative"}) == Negative()
    assert not issubclass(Negative, BatchAugmentation)
    with pytest.raises(TypeError, match="must define __call__"):

        class Without(ImageAugmentation):
            kind: ClassVar[str] = "test_without"
