import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from sbp_lab import loader as loader_module
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
from sbp_lab.data.source import ArraySplit, Source
from sbp_lab.events import EventCutMix, EventFlip, Events, Frames
from sbp_lab.loader import Loader, Place, SampleError

ALL = (Crop(), Flip(), AutoAugment(), Cutout(size=4))


def arrays(count, seed, size=(12, 10), channels=3):
    rng = np.random.default_rng(seed)
    # the label and the index are written into the first pixels
    images = rng.integers(0, 256, (count, *size, channels), dtype=np.uint8)
    labels = rng.integers(0, 4, count)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = labels, np.arange(count)
    return ArraySplit(images, labels)


def source(train=50, test=23, **changes):
    fields = {"name": "toy", "class_names": ("a", "b", "c", "d"), "size": (12, 10), "channels": 3}
    return Source(train=arrays(train, 1), test=arrays(test, 2), **(fields | changes))


class Files:
    """A split as files are: read one by one, counted; sample ``broken`` cannot be."""

    def __init__(self, split, broken=()):
        self.split, self.broken, self.read = split, broken, []
        self.files = tuple(f"class{label}/{index}.png" for index, label in enumerate(split.labels))

    @property
    def labels(self):
        return self.split.labels

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.broken:
            raise OSError("the file ends after 12 bytes of 3072")
        return self.split[index]

    def digest(self):
        return self.split.digest()


class Recordings(Files):
    """Recordings of as many events as the index, on a sensor of 6 x 8."""

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        count = 5 + index
        return Events(
            t=np.sort(rng.integers(0, 1000, count)),
            x=rng.integers(0, 8, count),
            y=rng.integers(0, 6, count),
            p=rng.integers(0, 2, count),
            size=(6, 8),
        )


def recordings():
    train, test = arrays(50, 1), arrays(23, 2)
    return Source(
        name="toy", train=Recordings(train), test=Recordings(test), class_names=tuple("abcd"), size=(6, 8), channels=2,
        events=True,
    )  # fmt: skip


def same(found, wanted):
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted)
    for (inputs, labels), (inputs_wanted, labels_wanted) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(inputs, inputs_wanted)
        np.testing.assert_array_equal(labels, labels_wanted)
        assert type(inputs) is type(labels) is np.ndarray
        assert inputs.dtype == np.float32


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


def test_workers_make_the_same_batches_in_every_epoch_and_end_with_the_loader():
    data = source(train=80)
    augment = (*ALL, MixUp(), CutMix(probability=0.5))
    alone = Loader(data, batch_size=8, seed=5, augment=augment)
    with Loader(data, batch_size=8, seed=5, augment=augment, workers=2) as loader:
        same(loader.epoch(1, start=3), list(alone.epoch(1))[3:])
        same(loader.epoch(2), alone.epoch(2))
        processes = workers()
        # the test images are in memory
        same(loader.test(), alone.test())
        assert workers() == processes
        assert len(processes) == 2
    assert end_soon(processes)


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


class OwnSizes(Files):
    """Images of sizes of their own, as in folders."""

    def __getitem__(self, index):
        return np.full((20 + index, 30, 3), index, np.uint8)


def own_sizes():
    data = source()
    return Source(
        name="toy", train=OwnSizes(data.train), test=OwnSizes(data.test), class_names=tuple("abcd"), size=(8, 10),
        channels=3,
    )  # fmt: skip


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


@pytest.mark.parametrize("count", [0, 1], ids=["no worker", "one worker"])
def test_a_sample_that_cannot_be_read_is_named_and_its_error_comes_through(count):
    data = source(train=8)
    broken = Files(data.train, broken=(6,))
    broken_source = Source(
        name="toy", train=data.train, test=broken, class_names=data.class_names, size=(12, 10), channels=3
    )
    with Loader(broken_source, batch_size=4, seed=0, workers=count) as loader:
        batches = loader.test()
        same([next(batches)], [next(Loader(broken_source, batch_size=4, seed=0).test())])
        file = broken.files[6]
        message = rf"toy: test sample 6 \({file}\): OSError: the file ends after 12 bytes of 3072"
        with pytest.raises(SampleError, match=message) as raised:
            next(batches)
    if count:
        assert any("in __getitem__" in note for note in raised.value.__notes__)
    else:
        assert isinstance(raised.value.__cause__, OSError)


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


def test_a_start_beyond_the_end_is_refused():
    with pytest.raises(ValueError, match="start must be at most 6, the batches of an epoch; got 7"):
        Loader(source(), batch_size=8, seed=0).epoch(0, start=7)


def test_no_room_in_shared_memory_is_said_before_a_worker_starts(monkeypatch):
    from sbp_lab import workers

    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: Usage(1 << 20))
    monkeypatch.setattr(workers, "SHARED_MEMORY", Path.cwd())
    with pytest.raises(RuntimeError, match=r"2 workers with batches of 10 MB need 80 MB of shared memory, .* has 1 MB"):
        workers._ahead(10 << 20, 2)
    assert workers._ahead(1 << 16, 1) == workers.AHEAD
    assert workers._ahead(1 << 17, 2) == 1


def test_a_script_that_its_own_workers_would_run_again_is_told_how_to_be_written(monkeypatch):
    # what multiprocessing sets in a worker while it runs the script
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match=r'under `if __name__ == "__main__":`'):
        next(Loader(source(), batch_size=8, seed=0, workers=1).epoch(0))


def test_workers_without_grain_are_answered_with_what_to_install(monkeypatch):
    monkeypatch.setattr(loader_module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"grain, which runs workers, is not installed; .*\[lab\]"):
        Loader(source(), batch_size=8, seed=0, workers=1)
    Loader(source(), batch_size=8, seed=0)


@dataclass
class Usage:
    free: int


SMALL = """
import numpy as np
from sbp_lab.data.source import ArraySplit, Source
from sbp_lab.loader import Loader

split = ArraySplit(np.zeros((80, 4, 4, 1), np.uint8), np.zeros(80, np.int64))
source = Source(name="small", train=split, test=split, class_names=("a",), size=(4, 4))
"""

SCRIPT = """
if __name__ == "__main__":
    loader = Loader(source, batch_size=8, seed=0, workers=1)
    for number in range(10**6):
        for _ in loader.epoch(number):
            if number == 0:
                print("ready", flush=True)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_no_process_is_left_however_the_main_one_ends(end, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SMALL + SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        members = workers(process.pid)
        assert len(members) == 1
        if end == signal.SIGINT:
            # as a terminal does: to the whole group
            os.killpg(process.pid, end)
        else:
            process.kill()
        _, errors = process.communicate(timeout=60)
        if end == signal.SIGINT:
            # the main process alone answers, and nothing else complains
            assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1
            assert "leaked" not in errors
        assert end_soon(members)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def workers(parent=None):
    """Return the processes that ``parent``, or this one, has spawned."""
    found = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in found.splitlines()]
    return {
        int(pid) for pid, above, command in rows if int(above) == (parent or os.getpid()) and "spawn_main" in command
    }


def end_soon(processes):
    """Return whether all processes end within half a minute; one that waits to be asked how it ended has ended."""

    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    deadline = time.monotonic() + 30
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, processes))


def test_a_loader_without_workers_imports_no_grain_and_starts_no_process():
    code = SMALL + (
        "next(Loader(source, batch_size=8, seed=0).epoch(0))\n"
        "import json, multiprocessing, sys\n"
        "heavy = {name.partition('.')[0] for name in sys.modules} & {'grain', 'jax', 'torch', 'tensorflow', 'keras'}\n"
        "print(json.dumps([sorted(heavy), len(multiprocessing.active_children())]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(found.stdout) == [[], 0]


def test_the_page_on_loading_runs_as_written(capsys):
    page = Path(__file__).parents[2] / "docs" / "loading.md"
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
        exec(code, {})
    assert capsys.readouterr().out == "Place(epoch=0, step=22)\nPlace(epoch=1, step=22)\n2 (64, 8, 8, 1)\n"


def test_the_page_on_loading_names_every_augmentation():
    page = (Path(__file__).parents[2] / "docs" / "loading.md").read_text()
    kinds = {kind for kind, family in Augmentation.families().items() if family.__module__.startswith("sbp_lab.")}
    assert set(re.findall(r"`((?:event_)?[a-z_]+)`", page.partition("| `kind` |")[2].partition("\n\n")[0])) >= kinds
