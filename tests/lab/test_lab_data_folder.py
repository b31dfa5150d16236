import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sbp_lab.data import fit, open_data


def png(image):
    """Return the PNG of an uint8 image (height, width, 3): the format's text, and none of Pillow's."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def picture(seed, height=6, width=5):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


FILES = [
    "train/dog/a.png",
    "train/cat/z.png",
    "train/cat/sub/b.PNG",
    "train/cat/a.png",
    "test/dog/1.png",
    "test/cat/2.png",
]


def write(root, files=FILES):
    for seed, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(seed)))


def test_images_are_read_in_the_order_of_classes_and_names(tmp_path):
    write(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    source = open_data("folder", tmp_path)
    assert source.class_names == ("cat", "dog")
    for split, seeds, labels in ((source.train, (3, 2, 1, 0), [0, 0, 0, 1]), (source.test, (5, 4), [0, 1])):
        np.testing.assert_array_equal(split.labels, labels)
        for index, seed in enumerate(seeds):
            np.testing.assert_array_equal(split[index], picture(seed))
    assert (source.size, source.channels) == ((6, 5), 3)
    # the field's figures for natural images
    np.testing.assert_allclose(source.mean, (123.675, 116.28, 103.53))
    np.testing.assert_allclose(source.deviation, (58.395, 57.12, 57.375))


def test_val_is_taken_before_test_and_a_folder_below_can_be_named(tmp_path):
    write(tmp_path / "pets", [*FILES, "val/dog/9.png"])
    source = open_data("folder/pets", tmp_path)
    np.testing.assert_array_equal(source.test[0], picture(6))
    assert len(source.test) == 1
    assert source.name == "folder/pets"


def test_where_sizes_differ_the_size_is_the_fields(tmp_path):
    write(tmp_path)
    (tmp_path / "train" / "dog" / "a.png").write_bytes(png(picture(0, 9, 9)))
    source = open_data("folder", tmp_path)
    assert source.size == (224, 224)
    assert source.train[3].shape == (9, 9, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA"])
def test_every_common_kind_of_image_becomes_three_channels(mode, tmp_path):
    write(tmp_path)
    image = Image.fromarray(np.full((6, 5, 3), 255, np.uint8)).convert(mode)
    image.save(tmp_path / "test" / "cat" / "2.png", format="TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(open_data("folder", tmp_path).test[0], np.full((6, 5, 3), 255))


def test_more_than_eight_bits_are_refused_rather_than_clipped(tmp_path):
    write(tmp_path)
    Image.fromarray(np.full((6, 5), 4000, np.uint16)).save(tmp_path / "test" / "cat" / "2.png")
    with pytest.raises(ValueError, match=r"2\.png, its header: expected at most 8 bits a channel, found mode I;16"):
        open_data("folder", tmp_path).test[0]


def test_a_header_that_asks_for_gigabytes_is_refused(tmp_path, monkeypatch):
    write(tmp_path)
    source = open_data("folder", tmp_path)
    monkeypatch.setattr("sbp_lab.data.folder._PIXELS_AT_MOST", 29)
    with pytest.raises(ValueError, match=r"2\.png, its header: expected at most .* million, found 5 x 6 pixels"):
        source.test[0]


@pytest.mark.parametrize("cut", [0, 4, 20, 60, -40])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_cut_image_is_named_when_it_is_read(cut, kind, tmp_path):
    write(tmp_path)
    path = tmp_path / "test" / "cat" / "2.png"
    Image.fromarray(picture(0, 32, 32)).save(path, format=kind)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"2\.png, somewhere in its \d+ bytes: expected a whole image"):
        open_data("folder", tmp_path).test[0]


def test_missing_and_strange_folders_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder for each class in train/"):
        open_data("folder", tmp_path)
    write(tmp_path, FILES[:4])
    with pytest.raises(FileNotFoundError, match="neither val/ nor test/"):
        open_data("folder", tmp_path)
    write(tmp_path, [*FILES, "test/eel/1.png"])
    with pytest.raises(ValueError, match="eel, its name: expected the classes of train/"):
        open_data("folder", tmp_path)
    (tmp_path / "test" / "eel" / "1.png").unlink()
    (tmp_path / "test" / "eel").rmdir()
    (tmp_path / "train" / "eel").mkdir()
    with pytest.raises(FileNotFoundError, match="eel holds no image"):
        open_data("folder", tmp_path)
    (tmp_path / "train" / "eel" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"eel/1\.png, its header"):
        open_data("folder", tmp_path)


def test_imagenet_is_answered_with_where_to_get_it_and_needs_its_thousand_classes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image-net\.org.*138 GB.*sorted into the same 1,000 folders"):
        open_data("imagenet", tmp_path)
    write(tmp_path / "imagenet")
    with pytest.raises(ValueError, match="expected ImageNet's 1,000 classes, found 2"):
        open_data("imagenet", tmp_path)


def test_a_split_is_pickled_as_paths_and_reads_in_another_process_alike(tmp_path):
    write(tmp_path)
    (tmp_path / "train" / "dog" / "a.png").write_bytes(png(picture(0, 400, 400)))
    train = open_data("folder", tmp_path).train
    pickled = pickle.dumps(train)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled)[3], picture(0, 400, 400))


def test_the_checksum_follows_bytes_names_and_classes(tmp_path):
    sums = []
    for change in ("nothing", "nothing", "byte", "name", "class"):
        root = tmp_path / str(len(sums))
        write(root)
        path = root / "train" / "cat" / "a.png"
        if change == "byte":
            path.write_bytes(png(picture(99)))
        elif change == "name":
            path.rename(path.with_name("aa.png"))
        elif change == "class":
            path.rename(root / "train" / "dog" / "aaa.png")
        sums.append(open_data("folder", root).checksum)
    assert sums[0] == sums[1]
    assert len(set(sums)) == 4


def test_fit_takes_the_middle_of_an_image_whose_shorter_side_is_256_as_the_field_does():
    for height, width, tall, wide in (
        (300, 401, 256, 342),
        (500, 283, 452, 256),
        (256, 256, 256, 256),
        (100, 90, 284, 256),
    ):
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        top, left = (tall - 224) // 2, (wide - 224) // 2
        resized = Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR)
        theirs = resized.crop((left, top, left + 224, top + 224))
        np.testing.assert_array_equal(fit(image, (224, 224)), theirs)
    square = np.zeros((512, 512, 3), np.uint8)
    assert fit(square, (512, 512)) is square


def test_images_of_floating_numbers_fit_too():
    image = np.full((20, 30, 2), [0.25, -0.5], np.float32)
    np.testing.assert_array_equal(fit(image, (8, 6)), np.full((8, 6, 2), [0.25, -0.5], np.float32))
