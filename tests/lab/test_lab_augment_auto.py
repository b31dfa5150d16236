import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from sbp_core.specs.base import Spec
from sbp_lab.augment import AutoAugment
from sbp_lab.augment.auto import POLICIES, SIGNED, magnitude, operate

torch = pytest.importorskip("torch", exc_type=ImportError)


@pytest.fixture(scope="module", autouse=True)
def _transforms():
    # torchvision lies apart, see the Makefile, and of it the transforms alone are imported: its __init__ wants
    # operators compiled for CUDA's torch, which no picture needs
    apart = Path(sys.prefix) / "vision"
    package = importlib.util.spec_from_file_location(
        "torchvision", apart / "torchvision" / "__init__.py", submodule_search_locations=[str(apart / "torchvision")]
    )
    if not apart.exists():
        pytest.skip(f"torchvision is not in {apart}")
    sys.modules["torchvision"] = importlib.util.module_from_spec(package)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


LEVELLED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
LEVELLED += ("Posterize", "Solarize")
PLAIN = ("AutoContrast", "Equalize", "Invert")


def theirs(policy):
    from torchvision.transforms import autoaugment

    return autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(policy))


def images(channels):
    """Noise, a gradient, few values, one value, a narrow and oblong pictures."""
    rng = np.random.default_rng(5)
    ramp = np.linspace(20, 180, 32).astype(np.uint8)
    return [
        rng.integers(0, 256, (32, 32, channels), dtype=np.uint8),
        np.broadcast_to(ramp[:, None, None] + np.arange(channels, dtype=np.uint8) * 9, (32, 32, channels)).copy(),
        rng.choice(np.array([3, 90, 91, 255], np.uint8), (32, 32, channels)),
        np.full((32, 32, channels), 77, np.uint8),
        rng.integers(100, 130, (28, 28, channels), dtype=np.uint8),
        rng.integers(0, 256, (17, 40, channels), dtype=np.uint8),
        # moved another way, being larger
        rng.integers(0, 256, (61, 70, channels), dtype=np.uint8),
    ]


@pytest.mark.parametrize("policy", ["cifar10", "imagenet"])
def test_the_policy_is_torchvisions_table(policy):
    assert list(POLICIES[policy]) == theirs(policy).policies
    used = {name for pair in POLICIES[policy] for name, _, _ in pair}
    assert used <= {*LEVELLED, *PLAIN}


@pytest.mark.parametrize("size", [(32, 32), (224, 200)])
def test_strengths_and_signs_are_torchvisions(size):
    space = theirs("cifar10")._augmentation_space(10, size)
    assert {name for name, (_, signed) in space.items() if signed} == SIGNED
    for name in LEVELLED:
        ours = [magnitude(name, level, *size) for level in range(10)]
        # theirs are computed in float32
        np.testing.assert_allclose(ours, space[name][0].numpy(), rtol=3e-7, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*LEVELLED, *PLAIN])
def test_an_operation_is_torchvisions_pixel_by_pixel(name, channels):
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    for image in images(channels):
        before = image.copy()
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        for level in range(10) if name in LEVELLED else [None]:
            for sign in (1, -1) if name in SIGNED else (1,):
                for fill in (0, 128):
                    strength = sign * magnitude(name, level, *image.shape[:2])
                    wanted = _apply_op(picture, name, strength, InterpolationMode.NEAREST, [fill] * channels)
                    found = operate(image, name, strength, fill)
                    assert found.dtype == np.uint8
                    np.testing.assert_array_equal(found, np.asarray(wanted).reshape(image.shape))
        np.testing.assert_array_equal(image, before)


class Drawn:
    """A generator that gives what torchvision was given."""

    def __init__(self, pair, chances, signs):
        self.pair, self.numbers = pair, np.array([*chances, *(0.75 if sign else 0.25 for sign in signs)])

    def integers(self, high):
        assert self.pair < high
        return self.pair

    def random(self, size):
        assert size == 4
        return self.numbers


def test_a_whole_augmentation_is_torchvisions_for_what_it_drew():
    from PIL import Image

    image = images(3)[0]
    transform = theirs("cifar10")
    space = transform._augmentation_space(10, (32, 32))
    exact = {name: torch.tensor([magnitude(name, n, 32, 32) for n in range(10)], dtype=torch.float64) for name in space}
    # theirs are off by float32's rounding, which can move a pixel by 1
    transform._augmentation_space = lambda bins, size: {name: (exact[name], space[name][1]) for name in space}
    changed = 0
    for seed in range(150):
        torch.manual_seed(seed)
        drawn = transform.get_params(len(transform.policies))
        torch.manual_seed(seed)
        wanted = np.asarray(transform(Image.fromarray(image)))
        found = AutoAugment()(image, Drawn(drawn[0], drawn[1].tolist(), drawn[2].tolist()))
        np.testing.assert_array_equal(found, wanted)
        changed += not np.array_equal(found, image)
    assert changed > 80


def test_pairs_chances_and_signs_come_as_often_as_the_policy_says():
    # Rotate at level 2 with 0.7: only it turns this picture, a cross off the middle's symmetry
    rng = np.random.default_rng(3)
    image = images(3)[0]
    left, right = (operate(image, "Rotate", sign * magnitude("Rotate", 2, 32, 32)) for sign in (1, -1))
    lone = [AutoAugment()(image, rng) for _ in range(1500)]
    counts = [sum(np.array_equal(found, turned) for found in lone) for turned in (left, right)]
    # turned and then not moved: 1/25 of the pairs, 0.7 of those, 0.7 of those unmoved, half each way
    mean = 1500 / 25 * 0.7 * 0.7 / 2
    for count in counts:
        assert abs(count - mean) < 4 * np.sqrt(mean)


def test_the_generator_decides_alone_and_the_image_stays():
    image = images(3)[0]
    before = image.copy()
    first, second = (
        [AutoAugment()(image, rng) for _ in range(30)] for rng in (np.random.default_rng(1), np.random.default_rng(1))
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8)])
def test_an_image_that_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"image must be uint8, \(height, width, 1 or 3 channels\)"):
        AutoAugment()(image, np.random.default_rng(0))


def test_fields_are_checked_and_survive_json():
    spec = AutoAugment(policy="imagenet", fill=128)
    assert Spec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="policy must be one of 'cifar10', 'imagenet'; got 'svhn'"):
        AutoAugment(policy="svhn")
    with pytest.raises(ValueError, match=r"fill must be an integer in 0 .. 255, got 256"):
        AutoAugment(fill=256)
