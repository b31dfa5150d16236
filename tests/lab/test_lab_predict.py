"""``sbp predict``: files to labels, as the trained network says of the same samples from its data."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sbp_lab.data import open_data
from sbp_lab.events import Frames
from sbp_lab.inputs import Inputs
from sbp_lab.prediction import predict, softmax
from sbp_lab.samples import Samples
from sbp_lab.trained import open_trained
from tests.lab.command import sbp
from tests.lab.small_run import small_run

pytest.importorskip("torch")

COUNT = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def wanted(run):
    """Probabilities of the first test digits, normalised here."""
    digits = open_data("digits")
    train = digits.train.images.astype(np.float64)
    images = ((digits.test.images[:COUNT] - train.mean()) / train.std()).astype(np.float32)
    return softmax(open_trained(run).trainer().predict(images))


def digits_test():
    return open_data("digits").test.images[:COUNT]


def probabilities(run, *paths, **options):
    return np.array([each.probabilities for each in predict(open_trained(run), paths, **options)])


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int64])
def test_arrays_as_stored_give_what_the_data_gives(run, wanted, tmp_path, dtype):
    np.save(tmp_path / "many.npy", digits_test().astype(dtype))
    np.save(tmp_path / "flat.npy", digits_test()[..., 0].astype(dtype))
    np.save(tmp_path / "one.npy", digits_test()[3].astype(dtype))
    np.savez(tmp_path / "named.npz", labels=np.zeros(COUNT), images=digits_test().astype(dtype))
    for name in ("many.npy", "flat.npy", "named.npz"):
        np.testing.assert_allclose(probabilities(run, tmp_path / name, batch_size=5), wanted, atol=1e-5)
    np.testing.assert_allclose(probabilities(run, tmp_path / "one.npy"), wanted[3:4], atol=1e-5)


def test_levels_of_pictures_become_the_datas_own_range(run, wanted, tmp_path):
    for at, image in enumerate(digits_test()):
        # 0 .. 16, of which 15 is 239.06: a level has no fractions
        Image.fromarray(np.round(image[..., 0] * (255 / 16)).astype(np.uint8)).convert("RGB").save(
            tmp_path / f"{at:02}.png"
        )
    (tmp_path / "notes.txt").write_text("left out")
    found = probabilities(run, tmp_path)
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() >= 0.9
    np.testing.assert_allclose(found, wanted, atol=0.1)


def test_an_image_of_another_size_is_brought_to_the_networks(run, tmp_path):
    large = np.kron(digits_test()[0][..., 0], np.ones((20, 24))).astype(np.uint8) * 15
    Image.fromarray(large).save(tmp_path / "large.png")
    assert probabilities(run, tmp_path / "large.png").shape == (1, 10)


def test_weights_alone_are_enough(run, wanted, tmp_path):
    shutil.copy(run / "last.safetensors", tmp_path / "mine.safetensors")
    np.save(tmp_path / "many.npy", digits_test())
    np.testing.assert_allclose(probabilities(tmp_path / "mine.safetensors", tmp_path / "many.npy"), wanted, atol=1e-5)


def test_the_csv_holds_every_probability_and_the_class_names(run, wanted, tmp_path):
    np.save(tmp_path / "many.npy", digits_test())
    Image.fromarray(digits_test()[0][..., 0] * 15).save(tmp_path / "one.png")
    done = sbp(
        "predict", str(run), str(tmp_path / "many.npy"), str(tmp_path / "one.png"), "--out", str(tmp_path / "o.csv")
    )
    assert done.exit_code == 0, done.output
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT + 1
    assert [row["index"] for row in rows] == [*map(str, range(COUNT)), ""]
    for row, expected in zip(rows, wanted, strict=False):
        names = open_data("digits").class_names
        assert int(row["label"]) == expected.argmax()
        assert row["class"] == names[expected.argmax()]
        assert float(row["probability"]) == pytest.approx(expected.max(), abs=1e-5)
        assert [float(row[f"p({name})"]) for name in names] == pytest.approx(expected, abs=1e-5)
    # the rows stand as well in what is printed
    assert f"{tmp_path / 'many.npy'}[3]" in done.output


def broken(folder):
    folder.mkdir()
    np.save(folder / "channels.npy", np.zeros((3, 8, 8, 3), np.uint8))
    np.save(folder / "nan.npy", np.full((8, 8, 1), np.nan))
    np.save(folder / "scale.npy", np.full((8, 8, 1), 255.0))
    np.savez(folder / "names.npz", a=np.zeros(3), b=np.zeros(3))
    (folder / "half.npy").write_bytes((folder / "scale.npy").read_bytes()[:200])
    (folder / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "words.txt").write_text("no image")
    (folder / "empty").mkdir()
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("channels.npy", "must hold images (height, width, 1), channels last, got (8, 8, 3)"),
        ("nan.npy", "must hold finite numbers, it has NaN or infinity"),
        ("scale.npy", "must hold values as digits has them, 0 to 16; the highest is 255: is the scale another?"),
        ("names.npz", "it has a, b, and none is called images"),
        ("half.npy", "must hold an array of images"),
        ("half.png", "must be a whole image, it cannot be read"),
        ("words.txt", "the network was trained on images, of digits"),
        ("empty", "holds no file that ends in .png"),
        ("objects.npy", "must hold an array of images"),
        ("gone.png", "there is no"),
    ],
)
def test_a_file_that_cannot_be_taken_is_named(run, tmp_path, name, message):
    broken(tmp_path / "files")
    done = sbp("predict", str(run), str(tmp_path / "files" / name))
    assert done.exit_code == 2, done.output
    assert "Invalid value for FILES" in done.output
    assert message in " ".join(done.output.split())
    assert name in done.output


def test_no_file_is_no_mistake_of_the_run(run):
    assert "there must be files to predict" in sbp("predict", str(run)).output


# records of five bytes: column, row, polarity in the first of 24 bits and microseconds in the others
RECORDS = [(3, 4, 1, 10), (5, 4, 0, 20), (33, 0, 1, 30), (0, 33, 1, 40)]


def test_recordings_are_read_as_the_data_sets_own_and_cut_as_in_training(tmp_path):
    content = b"".join(bytes([x, y]) + (p << 23 | t).to_bytes(3, "big") for x, y, p, t in RECORDS)
    (tmp_path / "one.bin").write_bytes(content)
    t, x, y, p = (np.array(column) for column in zip(*((t, x, y, p) for x, y, p, t in RECORDS), strict=True))
    np.savez(tmp_path / "two.npz", t=t, x=x, y=y, p=p)
    inputs = Inputs(data="nmnist", class_names=("0", "1"), size=(34, 34), channels=2, events=True)
    samples = Samples([tmp_path], inputs)
    assert [str(samples.place(at)[0].name) for at in range(2)] == ["one.bin", "two.npz"]
    frames = Frames(by="count", steps=2)
    first, second = (frames(samples[at]) for at in range(2))
    np.testing.assert_array_equal(first, second)
    expected = np.zeros((2, 34, 34, 2))
    for at, (x, y, p, _) in enumerate(RECORDS):
        expected[at // 2, y, x, p] = 1
    np.testing.assert_array_equal(first, expected)
    (tmp_path / "three.bin").write_bytes(content[:-2])
    with pytest.raises(ValueError, match=r"three\.bin"):
        Samples([tmp_path / "three.bin"], inputs)[0]
    # N-Caltech101's clock runs over where the row is 240
    over = replace(inputs, data="ncaltech101", size=(180, 240))
    (tmp_path / "over.bin").write_bytes(content[:5] + bytes([0, 240, 0, 0, 0]) + content[5:10])
    assert Samples([tmp_path / "over.bin"], over)[0].t.tolist() == [10, 20 + 2**13]


def test_values_of_training_that_no_picture_has_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "one.png")
    inputs = Inputs(data="mine", class_names=("a",), size=(4, 4), channels=1, low=-1.0, high=1.0)
    with pytest.raises(ValueError, match="which are which, nobody can tell"):
        Samples([tmp_path / "one.png"], inputs)[0]
    with pytest.raises(ValueError, match="images of mine have 5 channels"):
        Samples([tmp_path / "one.png"], replace(inputs, channels=5))[0]
