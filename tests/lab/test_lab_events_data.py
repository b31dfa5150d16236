"""Data sets of event cameras, opened from folders laid out as published, with tiny files."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from sbp_lab.data import open_data
from sbp_lab.data.cifar10_dvs import NAMES as CIFAR
from sbp_lab.data.cifar10_dvs import open_part
from sbp_lab.events import EventFlip, EventRoll, Events, Frames
from sbp_lab.recipe import Recipe
from tests.lab import event_files as files


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def nmnist(tmp_path):
    for part, number in (("Train", 2), ("Test", 1)):
        for digit in range(10):
            for place in range(number):
                record = (digit, place, digit, place % 2)
                put(
                    tmp_path / "N-MNIST" / part / str(digit) / f"{place + 10 * digit:05d}.bin", files.bin_file([record])
                )
    return tmp_path


def test_nmnist_has_its_folders_as_labels_and_its_recordings_by_index(nmnist):
    for folder in (nmnist, nmnist / "N-MNIST"):
        source = open_data("nmnist", folder)
        assert (source.name, source.num_classes, source.size, source.channels) == ("nmnist", 10, (34, 34), 2)
        assert source.events
        assert source.mean is source.deviation is None
        assert source.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
        assert source.test.labels.tolist() == list(range(10))
        assert source.train[7] == Events(t=[3], x=[1], y=[3], p=[1], size=(34, 34))
        assert source.train[-1] == Events(t=[9], x=[1], y=[9], p=[1], size=(34, 34))
        with pytest.raises(IndexError):
            source.train[20]


def test_nmnists_recordings_are_read_lazily_also_from_a_pickled_split_and_name_a_damaged_file(nmnist):
    split = pickle.loads(pickle.dumps(open_data("nmnist", nmnist).train))
    assert len(pickle.dumps(split)) < 5000
    bad = nmnist / "N-MNIST" / "Train" / "3" / "00031.bin"
    bad.write_bytes(b"1234567")
    assert split[6] == Events(t=[3], x=[0], y=[3], p=[0], size=(34, 34))
    with pytest.raises(ValueError, match=re.escape(f"{bad}, byte 7: expected records of 5 bytes")):
        split[7]


def test_the_checksum_sees_a_changed_byte_a_moved_file_and_nothing_else(nmnist):
    before = open_data("nmnist", nmnist).checksum
    assert open_data("nmnist", nmnist / "N-MNIST").checksum == before
    changed = nmnist / "N-MNIST" / "Test" / "3" / "00030.bin"
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + b"\x07")
    assert open_data("nmnist", nmnist).checksum != before
    changed.write_bytes(content)
    assert open_data("nmnist", nmnist).checksum == before
    changed.rename(changed.parent.parent / "4" / changed.name)
    changed.write_bytes(content)
    assert open_data("nmnist", nmnist).checksum != before


def test_nmnist_refuses_what_is_not_laid_out_as_it_is(nmnist):
    digit = nmnist / "N-MNIST" / "Train" / "5"
    put(digit / ".DS_Store", b"")
    put(digit / "00057.bin.part", b"")
    with pytest.raises(
        ValueError, match=re.escape(f"{digit}: expected recordings, .bin files, found '00057.bin.part'")
    ):
        open_data("nmnist", nmnist)
    (digit / "00057.bin.part").unlink()
    assert len(open_data("nmnist", nmnist).train) == 20
    for file in digit.glob("*.bin"):
        file.unlink()
    with pytest.raises(ValueError, match=r"5: expected recordings, .bin files, found nothing"):
        open_data("nmnist", nmnist)
    digit.rename(digit.parent / "five")
    with pytest.raises(ValueError, match=r"Train: expected one folder a class, '0' ... '9', found 'five'"):
        open_data("nmnist", nmnist)
    (digit.parent / "five").rename(nmnist / "five")
    with pytest.raises(ValueError, match=r"Train: expected one folder a class, .*found none called '5'"):
        open_data("nmnist", nmnist)
    (nmnist / "N-MNIST" / "Test").rename(nmnist / "Tests")
    (nmnist / "five").rename(digit)
    with pytest.raises(FileNotFoundError, match=r"Test is missing: N-MNIST is Train/0 ... Train/9 and Test/0"):
        open_data("nmnist", nmnist)


@pytest.mark.parametrize(
    ("name", "title", "url", "layout"),
    [
        ("nmnist", "N-MNIST", "garrickorchard.com/datasets/n-mnist", "Train/7/00035.bin"),
        ("ncaltech101", "N-Caltech101", "garrickorchard.com/datasets/n-caltech101", "accordion/image_0001.bin"),
        ("cifar10_dvs", "CIFAR10-DVS", "figshare.com/articles/dataset/CIFAR10-DVS_New", "cat/cifar10_cat_999.aedat"),
        ("cifar10_dvs_first", "CIFAR10-DVS", "figshare.com/articles", "cat/cifar10_cat_999.aedat"),
        ("dvs_gesture", "DVS128 Gesture", "research.ibm.com/dvsgesture", "trials_to_test.txt"),
    ],
)
def test_without_files_the_message_says_where_to_get_them_how_large_they_are_and_where_they_go(
    name, title, url, layout, tmp_path
):
    for folder in (tmp_path, tmp_path / "none", None):
        with pytest.raises(FileNotFoundError) as caught:
            open_data(name, folder)
        for part in (title, url, layout, "GB"):
            assert part in str(caught.value)


def test_ncaltech101_trains_on_nine_tenths_of_each_class_in_the_order_of_numbers(tmp_path):
    counts = {"accordion": 25, "BACKGROUND_Google": 2, "ant": 10}
    for name, count in counts.items():
        for number in range(count):
            content = files.bin_file([(5, 1, 240, 1), (5, 200, 100, 1), (6, number, 100, 0)])
            put(tmp_path / "Caltech101" / name / f"image_{number + 1}.bin", content)
    source = open_data("ncaltech101", tmp_path)
    assert source.class_names == ("BACKGROUND_Google", "accordion", "ant")
    for label, name in enumerate(source.class_names):
        numbers = [
            [int(split[index].x[1]) for index in np.flatnonzero(split.labels == label)]
            for split in (source.train, source.test)
        ]
        train = {"accordion": 23, "BACKGROUND_Google": 1, "ant": 9}[name]
        assert numbers == [list(range(train)), list(range(train, counts[name]))]
    assert source.train[0] == Events(t=[8197, 8198], x=[200, 0], y=[100, 100], p=[1, 0], size=(180, 240))
    (tmp_path / "Caltech101" / "ant" / "image_1.bin").rename(tmp_path / "Caltech101" / "one.bin")
    with pytest.raises(ValueError, match=r"one\.bin: expected a folder of recordings, found a file"):
        open_data("ncaltech101", tmp_path)


def test_ncaltech101_refuses_a_class_that_cannot_be_split(tmp_path):
    put(tmp_path / "Caltech101" / "ant" / "image_0001.bin", files.bin_file([(5, 1, 2, 1)]))
    with pytest.raises(ValueError, match="ant: expected at least 2 recordings, found 1"):
        open_data("ncaltech101", tmp_path)


@pytest.fixture
def cifar_names(tmp_path, monkeypatch):
    files = [f"{name}/cifar10_{name}_{number}.aedat" for name in CIFAR for number in range(1000)]
    # 10,000 files take seconds to make
    monkeypatch.setattr("sbp_lab.data.cifar10_dvs.gather", lambda *_: (tuple(files), np.arange(10_000) // 1000))
    for name in CIFAR:
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(("name", "first"), [("cifar10_dvs", 900), ("cifar10_dvs_first", 0)])
def test_cifar10_dvs_tests_on_a_hundred_numbers_of_each_class_and_trains_on_the_others(cifar_names, name, first):
    source = open_data(name, cifar_names)
    assert source.name == name
    for split, numbers in (
        (source.test, set(range(first, first + 100))),
        (source.train, set(range(1000)) - set(range(first, first + 100))),
    ):
        assert len(split) == 10 * len(numbers)
        found = {(file, int(label)) for file, label in zip(split.files, split.labels, strict=True)}
        assert found == {
            (f"{name}/cifar10_{name}_{number}.aedat", label) for label, name in enumerate(CIFAR) for number in numbers
        }


@pytest.fixture
def cifar(tmp_path):
    for name in CIFAR:
        for number in range(3):
            record = files.dvs128_record(10 + number, 20, 30 + number, 1)
            put(tmp_path / name / f"cifar10_{name}_{number}.aedat", files.aedat2_file([record]))
    return tmp_path


def part_of(folder):
    return open_part(folder, "part", test_from=2, per_class=3, test_per_class=1)


def test_cifar10_dvs_is_turned_as_spikingjelly_turns_it(cifar):
    # spikingjelly.datasets.cifar10_dvs: x = 127 - (address >> 8 & 127), y = 127 - (address >> 1 & 127), p = 1 - bit 0
    address = int.from_bytes(files.dvs128_record(11, 20, 31, 1)[:4], "big")
    x, y, p = 127 - (address >> 8 & 127), 127 - (address >> 1 & 127), 1 - (address & 1)
    assert part_of(cifar).train[1] == Events(t=[11], x=[x], y=[y], p=[p], size=(128, 128))
    assert (x, y, p) == (31, 20, 1)


def test_cifar10_dvs_keeps_events_whose_times_the_camera_mixed_up(cifar):
    records = [files.dvs128_record(*event) for event in [(50, 1, 2, 1), (40, 3, 4, 0)]]
    put(cifar / "airplane" / "cifar10_airplane_0.aedat", files.aedat2_file(records))
    assert part_of(cifar).train[0] == Events(t=[40, 50], x=[4, 2], y=[3, 1], p=[0, 1], size=(128, 128))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bird/cifar10_bird_1.aedat", None, "bird: expected recordings 0 to 2, found 2 and no cifar10_bird_1.aedat"),
        ("bird/cifar10_bird_1.aedat", "bird/cifar10_cat_1.aedat", "expected a name like cifar10_bird_0.aedat"),
        ("bird/cifar10_bird_1.aedat", "bird/cifar10_bird_01.aedat", "expected a name like cifar10_bird_0.aedat"),
        ("bird/cifar10_bird_1.aedat", "bird/cifar10_bird_7.aedat", "found 3 and no cifar10_bird_1.aedat"),
        ("bird/cifar10_bird_1.aedat", "bird/cifar10_bird_1.aedat4", "found 'cifar10_bird_1.aedat4'"),
    ],
)
def test_cifar10_dvs_refuses_missing_and_mislabelled_files(cifar, old, new, message):
    if new is None:
        (cifar / old).unlink()
    else:
        (cifar / old).rename(cifar / new)
    with pytest.raises(ValueError, match=re.escape(message)):
        part_of(cifar)


def test_cifar10_dvs_refuses_a_number_too_many_and_a_class_too_few(cifar):
    put(cifar / "truck" / "cifar10_truck_3.aedat", b"")
    with pytest.raises(ValueError, match="truck: expected recordings 0 to 2, found 4 and number 3"):
        part_of(cifar)
    (cifar / "ship").rename(cifar / "boat")
    with pytest.raises(FileNotFoundError, match=r"ship is missing: CIFAR10-DVS is airplane \.\.\. truck"):
        part_of(cifar)


TABLE = "class,startTime_usec,endTime_usec\n"


def trial(first, count=60):
    return [[(first + 10 * n + k, (n + k) % 128, n % 128, k % 2) for k in range(5)] for n in range(count)]


@pytest.fixture
def gestures(tmp_path):
    folder = tmp_path / "DvsGesture"
    for user, rows in {
        "user01_led": "1,1100,1200\n11,1195,1400\n",
        "user02_lab": "3,1000,1010\n",
        "user24_led": "2,1300,1301\n\n",
    }.items():
        put(folder / f"{user}.aedat", files.aedat3_file(*(files.polarity_packet(packet) for packet in trial(1000))))
        put(folder / f"{user}_labels.csv", (TABLE + rows).encode())
    put(folder / "trials_to_train.txt", b"user01_led.aedat\nuser02_lab.aedat\n\n")
    put(folder / "trials_to_test.txt", b"user24_led.aedat\r\n")
    return tmp_path


def window(start, stop):
    events = [event for packet in trial(1000) for event in packet if start <= event[0] < stop]
    t, x, y, p = (list(column) for column in zip(*events, strict=True))
    return Events(t=t, x=x, y=y, p=p, size=(128, 128))


def test_dvs_gesture_cuts_trials_where_their_tables_say_and_splits_them_as_the_lists_do(gestures):
    source = open_data("dvs_gesture", gestures)
    assert (source.num_classes, source.size, source.events) == (11, (128, 128), True)
    assert source.train.labels.tolist() == [0, 10, 2]
    assert source.test.labels.tolist() == [1]
    expected = [window(1100, 1200), window(1195, 1400), window(1000, 1010)]
    for index in (2, 0, 1, 0):
        assert source.train[index] == expected[index]
    assert source.test[-1] == window(1300, 1301)
    # what was found out by reading does not travel to workers
    assert pickle.dumps(source.train) == pickle.dumps(open_data("dvs_gesture", gestures).train)
    copy = pickle.loads(pickle.dumps(source.train))
    assert [copy[index] for index in range(3)] == expected
    assert source.train.read(gestures / "DvsGesture" / "user01_led.aedat") == window(0, 9999)
    with pytest.raises(IndexError):
        source.train[3]


def test_dvs_gesture_reads_only_a_gestures_bytes_once_the_file_is_known(gestures):
    split = open_data("dvs_gesture", gestures).train
    expected = split[0]
    path = gestures / "DvsGesture" / "user01_led.aedat"
    path.write_bytes(path.read_bytes()[:-20])
    assert split[0] == expected
    with pytest.raises(ValueError, match=re.escape(str(path)) + r", packet 59 at byte \d+: expected 5 events of 8"):
        open_data("dvs_gesture", gestures).train[0]


def test_dvs_gestures_checksum_sees_its_tables_and_its_files(gestures):
    before = open_data("dvs_gesture", gestures).checksum
    folder = gestures / "DvsGesture"
    assert open_data("dvs_gesture", folder).checksum == before
    table = (folder / "user24_led_labels.csv").read_bytes()
    put(folder / "user24_led_labels.csv", table.replace(b"2,13", b"3,13"))
    assert open_data("dvs_gesture", gestures).checksum != before
    put(folder / "user24_led_labels.csv", table)
    put(folder / "user24_led.aedat", (folder / "user24_led.aedat").read_bytes() + files.polarity_packet([]))
    assert open_data("dvs_gesture", gestures).checksum != before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("user01_led_labels.csv", "", "line 1: expected 'class,startTime_usec,endTime_usec', found nothing"),
        ("user01_led_labels.csv", "1,1100,1200\n", "line 1: expected 'class,startTime_usec,endTime_usec', found '1,11"),
        ("user01_led_labels.csv", TABLE, "line 2: expected a gesture, found none"),
        ("user01_led_labels.csv", TABLE + "1,1,2\n12,3,4\n", "line 3: expected a class of 1 to 11, .*found '12,3,4'"),
        ("user01_led_labels.csv", TABLE + "0,1,2\n", "line 2: expected a class of 1 to 11"),
        ("user01_led_labels.csv", TABLE + "1,9,9\n", "line 2: .*a start and a later end, found '1,9,9'"),
        ("user01_led_labels.csv", TABLE + "1,9\n", "line 2: .*found '1,9'"),
        ("user01_led_labels.csv", TABLE + "1,1.5,9\n", "line 2: .*found '1,1.5,9'"),
        ("user01_led_labels.csv", TABLE + "1,-1,9\n", "line 2: .*found '1,-1,9'"),
        ("user01_led_labels.csv", b"\xff\xfe", "byte 0: expected text"),
        ("trials_to_train.txt", "\n", "line 1: expected the names of trials, found none"),
        (
            "trials_to_train.txt",
            "user01_led.aedat\nuser02\n",
            "line 2: expected the name of an .aedat file, found 'user02'",
        ),
        ("trials_to_train.txt", "../user01_led.aedat\n", "line 1: expected the name of an .aedat file"),
        (
            "trials_to_train.txt",
            "user24_led.aedat\n",
            "its lines: expected other trials, found user24_led.aedat, which",
        ),
    ],
)
def test_dvs_gesture_refuses_a_damaged_list_or_table_by_its_line(gestures, file, content, message):
    path = gestures / "DvsGesture" / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    named = path if "other trials" not in message else path.with_name("trials_to_test.txt")
    with pytest.raises(ValueError, match=re.escape(str(named)) + ", " + message):
        open_data("dvs_gesture", gestures)


@pytest.mark.parametrize("file", ["user02_lab.aedat", "user02_lab_labels.csv", "trials_to_test.txt"])
def test_dvs_gesture_says_which_file_is_missing_and_where_to_get_it(gestures, file):
    (gestures / "DvsGesture" / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file} is missing.*research.ibm.com/dvsgesture"):
        open_data("dvs_gesture", gestures)


def test_a_gesture_without_an_event_is_an_error_that_names_file_and_times(gestures):
    path = gestures / "DvsGesture" / "user02_lab_labels.csv"
    path.write_text(TABLE + "3,5,9\n4,1005,1010\n")
    split = open_data("dvs_gesture", gestures).train
    with pytest.raises(ValueError, match=r"user02_lab.aedat, 5 to 9 us: expected events .*user02_lab_labels.csv says"):
        split[2]
    with pytest.raises(ValueError, match=r"user02_lab.aedat, 1005 to 1010 us: expected events"):
        split[3]


PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def test_the_pages_example_runs_as_written_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == re.search(r"print\(events\) +# (.*)", code)[1]
    assert names["frames"].sum() == 300


def test_the_papers_recipe_is_one_that_recipes_read():
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
    recipe = Recipe.from_toml(text)
    assert recipe.frames == Frames(by="count", steps=10, size=(48, 48), scale="peak")
    assert recipe.augment == (EventFlip(), EventRoll(pixels=5, of=(48, 48)))
