import re
from pathlib import Path

import numpy as np
import pytest

from sbp_lab.augment import (
    Augmentation,
    Crop,
    Flip,
    MixUp,
)
from sbp_lab.data.source import Source
from sbp_lab.loader import Loader, Place
from tests.lab.samples import ALL, Files, same, source


def test_an_epoch_has_every_sample_once_with_its_own_label_and_drops_what_is_left_over():
    data = source()
    loader = Loader(data, batch_size=8, seed=0)
    seen = {}
    for number in (0, 1):
        batches = list(loader.epoch(number))
        assert len(batches) == loader.steps_per_epoch == 6
        assert all(images.shape == (8, 12, 10, 3) for images, _ in batches)
        pixels = np.concatenate([images for images, _ in batches]) * data.deviation + data.mean
        labels = np.concatenate([labels for _, labels in batches])
        np.testing.assert_array_equal(np.rint(pixels[:, 0, 0, 0]), labels)
        seen[number] = np.rint(pixels[:, 0, 0, 1]).astype(int).tolist()
        assert len(set(seen[number])) == 48
    assert seen[0] != seen[1]


def test_testing_keeps_every_sample_in_order_and_unchanged():
    data = source()
    plain, augmented = (Loader(data, batch_size=8, seed=0, augment=augment) for augment in ((), (*ALL, MixUp())))
    assert [len(labels) for _, labels in plain.test()] == [8, 8, 7]
    assert plain.test_steps == 3
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in plain.test()]), data.test.labels)
    same(augmented.test(), plain.test())


def test_a_start_in_the_middle_goes_on_as_if_there_had_been_no_end_and_reads_nothing_before():
    data = source()
    files = Files(data.train)
    loader = Loader(
        Source(name="toy", train=files, test=data.test, class_names=data.class_names, size=(12, 10), channels=3),
        batch_size=8,
        seed=2,
        augment=(Crop(), Flip(), MixUp()),
    )
    _ = data.mean, loader.source.mean
    batches = loader.epoch(4)
    kept = [next(batches) for _ in range(3)]
    assert len(kept) == 3
    place = batches.place
    assert place == Place(4, 3)
    assert len(batches) == 3
    rest = list(batches)
    files.read.clear()
    resumed = loader.epoch(*place)
    assert files.read == []
    first = next(resumed)
    assert len(files.read) == 8
    same([first, *resumed], rest)
    assert list(loader.epoch(4, start=6)) == []


@pytest.mark.parametrize("augment", [ALL, (*ALL, MixUp())], ids=["images", "mixed"])
@pytest.mark.parametrize("count", [2, 4])
def test_the_shards_of_a_batch_are_the_batch(augment, count):
    data = source(test=10)
    whole = Loader(data, batch_size=8, seed=0, augment=augment)
    parts = [Loader(data, batch_size=8, seed=0, augment=augment, shard=(n, count)) for n in range(count)]
    for batches in ("epoch", "test"):
        arguments = (3,) if batches == "epoch" else ()
        pieces = zip(*(getattr(part, batches)(*arguments) for part in parts), strict=True)
        joined = [tuple(np.concatenate(arrays) for arrays in zip(*piece, strict=True)) for piece in pieces]
        same(joined, getattr(whole, batches)(*arguments))
    assert all(part.steps_per_epoch == whole.steps_per_epoch for part in parts)
    assert next(parts[0].epoch(0))[0].shape == (8 // count, 12, 10, 3)


def test_a_start_beyond_the_end_is_refused():
    with pytest.raises(ValueError, match="start must be at most 6, the batches of an epoch; got 7"):
        Loader(source(), batch_size=8, seed=0).epoch(0, start=7)


def test_the_page_on_loading_runs_as_written(capsys):
    page = Path(__file__).parents[2] / "docs" / "loading.md"
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
        exec(code, {})
    assert capsys.readouterr().out == "Place(epoch=0, step=22)\nPlace(epoch=1, step=22)\n2 (64, 8, 8, 1)\n"


def test_the_page_on_loading_names_every_augmentation():
    page = (Path(__file__).parents[2] / "docs" / "loading.md").read_text()
    kinds = {kind for kind, family in Augmentation.families().items() if family.__module__.startswith("sbp_lab.")}
    assert set(re.findall(r"`((?:event_)?[a-z_]+)`", page.partition("| `kind` |")[2].partition("\n\n")[0])) >= kinds
