"""Readers of event files, against files written event by event from the formats' definitions."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from sbp_lab.events import DAVIS240, DAVIS346, DAVIS640, DVS128, Events, read_aedat2, read_aedat3, read_bin
from sbp_lab.events.aedat3 import spans
from tests.lab import event_files as files


def drawn(seed, count, height, width, last=300_000):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, last, count))
    columns = (t, rng.integers(0, width, count), rng.integers(0, height, count), rng.integers(0, 2, count))
    return [tuple(int(value) for value in event) for event in zip(*columns, strict=True)]


def as_events(events, size):
    t, x, y, p = (list(column) for column in zip(*events, strict=True)) if events else ([], [], [], [])
    return Events(t=t, x=x, y=y, p=p, size=size)


@pytest.fixture
def write(tmp_path):
    def _write(content, name="recording"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return _write


def test_bin_gives_back_every_event_of_40_bits(write):
    events = [(0, 0, 0, 0), (1, 33, 33, 1), (255, 1, 2, 0), (65_536, 3, 4, 1), (2**23 - 1, 0, 33, 1)]
    events += [(2**23 - 1, x, y, p) for _, x, y, p in drawn(0, 300, 34, 34)]
    assert read_bin(write(files.bin_file(events)), size=(34, 34)) == as_events(events, (34, 34))


def test_bin_adds_8192_us_from_each_record_of_row_240_on_and_takes_it_for_no_event(write):
    stored = [(5, 1, 2, 1), (6, 7, 240, 1), (7, 3, 4, 0), (9, 0, 240, 0), (9, 0, 240, 0), (9, 5, 6, 1)]
    path = write(files.bin_file(stored))
    expected = [(5, 1, 2, 1), (7 + 8192, 3, 4, 0), (9 + 3 * 8192, 5, 6, 1)]
    assert read_bin(path, size=(180, 240), overflow=True) == as_events(expected, (180, 240))
    with pytest.raises(ValueError, match=r"byte 5: expected y below 180, .*found 240 in record 1"):
        read_bin(path, size=(180, 240))


def test_bin_names_the_record_of_the_file_also_behind_records_that_are_no_events(write):
    stored = [(5, 1, 2, 1), (6, 7, 240, 1), (7, 3, 4, 0), (8, 3, 200, 0)]
    with pytest.raises(ValueError, match=r"byte 15: expected y below 180.*found 200 in record 3"):
        read_bin(write(files.bin_file(stored)), size=(180, 240), overflow=True)
    stored = [(5, 1, 2, 1), (6, 7, 240, 1), (7, 3, 4, 0), (6, 3, 2, 0)]
    with pytest.raises(ValueError, match=r"byte 15, record 3: expected a time of at least 8199 us.*found 8198 us"):
        read_bin(write(files.bin_file(stored)), size=(180, 240), overflow=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"byte 0: expected records of 5 bytes, and the file is empty"),
        (bytes(12), r"byte 12: expected records of 5 bytes, and the file ends 2 bytes into record 2"),
        (files.bin_file([(0, 1, 1, 1), (0, 34, 1, 1)]), r"byte 5: expected x below 34.*found 34 in record 1"),
        (files.bin_file([(9, 1, 1, 1), (8, 3, 1, 1)]), r"byte 5, record 1: expected a time of at least 9 us.*found 8"),
    ],
)
def test_a_damaged_bin_file_is_named_with_the_byte_and_what_was_expected(write, content, message):
    path = write(content, "00001.bin")
    with pytest.raises(ValueError, match=re.escape(str(path)) + ", " + message):
        read_bin(path, size=(34, 34))


def test_aedat2_gives_back_a_dvs128s_picture_the_right_way_up_and_its_signs(write):
    events = [(0, 0, 0, 1), (0, 127, 0, 0), (3, 0, 127, 1), (2**32 - 1, 127, 127, 0)]
    content = files.aedat2_file([files.dvs128_record(*event) for event in events])
    assert read_aedat2(write(content), DVS128) == as_events(events, (128, 128))


@pytest.mark.parametrize("camera", [DAVIS240, DAVIS346, DAVIS640], ids=lambda camera: camera.name)
def test_aedat2_gives_back_a_davis_picture_and_leaves_frames_and_pins_out(write, camera):
    height, width = camera.size
    events = drawn(1, 50, *camera.size)
    events += [(300_000, width - 1, height - 1, 1), (300_001, 0, 0, 0)]
    records = [files.davis_record(*event, height, width) for event in events]
    frame, pin = b"\x80\x00\x00\x0c" + bytes(4), b"\x00\x00\x04\x00" + bytes(4)
    content = files.aedat2_file([frame, *records[:20], pin, frame, *records[20:], pin])
    assert read_aedat2(write(content), camera) == as_events(events, camera.size)


def test_aedat2_leaves_a_dvs128s_pin_out_also_where_its_16_bits_were_stretched(write):
    pins = [b"\x00\x00\x80\x00" + bytes(4), b"\xff\xff\x92\x34" + bytes(4)]
    content = files.aedat2_file([pins[0], files.dvs128_record(4, 5, 6, 1), pins[1]])
    assert read_aedat2(write(content), DVS128) == as_events([(4, 5, 6, 1)], (128, 128))


@pytest.mark.parametrize(
    "header",
    [
        b"#!AER-DAT2.0\r\n",
        b"#!AER-DAT2.0\n# unix\n",
        files.HEADER_2 + b"#End Of ASCII Header\r\n",
        files.HEADER_2 + b"# Prefs: <entry key='x' value='\xe9'/>\r\n",
    ],
)
def test_aedat2_finds_the_first_event_behind_any_header_also_one_that_begins_like_a_line(write, header):
    height, width = DAVIS640.size
    # the address begins with the byte of a "#"
    event = (7, 20, height - 1 - (0x23 << 2), 1)
    record = files.davis_record(*event, height, width)
    assert record[:1] == b"#"
    assert read_aedat2(write(header + record), DAVIS640) == as_events([event], DAVIS640.size)


def test_aedat2_sorts_times_that_go_back_only_where_it_is_told_to_and_keeps_every_event(write):
    events = [(5, 1, 1, 1), (9, 2, 2, 0), (7, 3, 3, 1), (7, 4, 4, 0), (9, 5, 5, 1)]
    path = write(files.aedat2_file([files.dvs128_record(*event) for event in events]))
    byte = len(files.HEADER_2) + 16
    with pytest.raises(ValueError, match=rf"byte {byte}, record 2: expected a time of at least 9 us.*found 7 us"):
        read_aedat2(path, DVS128)
    expected = [events[0], events[2], events[3], events[1], events[4]]
    assert read_aedat2(path, DVS128, order="sort") == as_events(expected, (128, 128))
    many = [(7 * n % 5, n % 128, 1, 1) for n in range(200)]
    found = read_aedat2(write(files.aedat2_file([files.dvs128_record(*event) for event in many])), DVS128, order="sort")
    assert found == as_events(sorted(many, key=lambda event: event[0]), (128, 128))
    with pytest.raises(ValueError, match="order must be one of 'strict', 'sort'"):
        read_aedat2(path, DVS128, order="any")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"byte 0: expected a first line of #!AER-DAT2.0, found b''"),
        (bytes(16), r"byte 0: expected a first line of #!AER-DAT2.0, found b'.x00"),
        (b"# no version\r\n" + bytes(8), r"byte 0: expected a first line of #!AER-DAT2.0"),
        (files.HEADER_3, r"byte 0: .*found AEDAT 3.1$"),
        (b"#!AER-DAT4.0\r\n" + bytes(9), r"byte 0: .*found AEDAT 4.0 \(Tonic .* original files\)"),
        (b"#!AER-DAT2.0", r"byte 0: expected a line of text, and the file ends within a line"),
        (files.HEADER_2[:40], r"byte 14: expected a line of text, and the file ends within a line of its header"),
        (files.HEADER_2.replace(b"raw", b"r\x01w") + bytes(8), r"byte 14: expected a line of text, and b'# This is"),
        (files.HEADER_2.replace(b"# Time", b"  Time") + bytes(8), r"byte 58: expected events, or a line of the header"),
        (files.HEADER_2, r"byte 85: expected records of 8 bytes, and the file ends after its header"),
        (files.HEADER_2 + bytes(11), r"byte 96: expected records of 8 bytes, .*ends 3 bytes into record 1"),
        (
            files.HEADER_2 + bytes(8) + b"\x00\x01\x00\x00" + bytes(4),
            r"byte 93: expected an address of a DVS128, 128 x 128 .*, found 0x00010000 in record 1",
        ),
    ],
)
def test_a_damaged_aedat2_file_is_named_with_the_byte_and_what_was_expected(write, content, message):
    path = write(content, "cifar10_cat_0.aedat")
    with pytest.raises(ValueError, match=re.escape(str(path)) + ", " + message):
        read_aedat2(path, DVS128)


def test_aedat2_of_another_camera_is_refused(write):
    wide = files.aedat2_file([files.davis_record(0, 1, 1, 1, 260, 346)])
    with pytest.raises(ValueError, match="expected an address of a DVS128"):
        read_aedat2(write(wide), DVS128)
    with pytest.raises(ValueError, match=r"expected an address of a DAVIS240, 180 x 240"):
        read_aedat2(write(wide), DAVIS240)


def packets():
    first, second, third = drawn(2, 60, 128, 128, 900), drawn(3, 1, 128, 128, 5), drawn(4, 40, 128, 128, 900)
    second = [(t + 1000, x, y, p) for t, x, y, p in second]
    content = files.aedat3_file(
        files.polarity_packet(first),
        files.other_packet(),
        files.polarity_packet(second),
        files.other_packet(3, 36, 5),
        files.polarity_packet([]),
        files.polarity_packet(third, overflows=2),
    )
    return content, first + second + [(t + 2 * 2**31, x, y, p) for t, x, y, p in third]


def test_aedat3_gives_back_all_polarity_events_of_all_packets_with_64_bits_of_time(write):
    content, events = packets()
    assert read_aedat3(write(content)) == as_events(events, (128, 128))


def test_aedat3_leaves_out_what_is_marked_invalid_and_nothing_else(write):
    events = drawn(5, 30, 128, 128)
    content = files.aedat3_file(files.polarity_packet(events, invalid=(0, 7, 29)))
    kept = [event for number, event in enumerate(events) if number not in (0, 7, 29)]
    assert read_aedat3(write(content)) == as_events(kept, (128, 128))


def test_aedat3_takes_start_and_not_stop(write):
    content, events = packets()
    path = write(content)
    times = sorted({event[0] for event in events})
    for start, stop in [(times[3], times[9]), (0, times[5]), (times[50], 2**40), (1000, 1005), (2**31, 2**32)]:
        window = [event for event in events if start <= event[0] < stop]
        assert read_aedat3(path, start=start, stop=stop) == as_events(window, (128, 128))
    assert read_aedat3(path, start=times[9]) == as_events([e for e in events if e[0] >= times[9]], (128, 128))
    assert read_aedat3(path, stop=times[9]) == as_events([e for e in events if e[0] < times[9]], (128, 128))


def test_the_bytes_of_a_span_are_enough_to_read_its_window(write):
    content, events = packets()
    path = write(content)
    windows = [(0, 100), (500, 1002), (1004, 2**33), (2**33, 2**34)]
    for (start, stop), span in zip(windows, spans(path, windows), strict=True):
        window = [event for event in events if start <= event[0] < stop]
        assert read_aedat3(path, start=start, stop=stop, span=span) == as_events(window, (128, 128))
    narrow = spans(path, windows)[0]
    assert narrow.end - narrow.begin == 28 + 60 * 8


def test_events_out_of_order_across_packets_are_all_in_their_window(write):
    stored = [[(50, 1, 1, 1), (90, 2, 2, 0)], [(40, 3, 3, 1), (60, 4, 4, 0)], [(85, 5, 5, 1)], [(55, 6, 6, 1)]]
    path = write(files.aedat3_file(*(files.polarity_packet(packet) for packet in stored)))
    with pytest.raises(ValueError, match=r"packet 1 at byte \d+, valid event 0: expected a time of at least 90 us"):
        read_aedat3(path)
    (span,) = spans(path, [(50, 61)])
    found = read_aedat3(path, start=50, stop=61, order="sort", span=span)
    assert found == as_events([(50, 1, 1, 1), (55, 6, 6, 1), (60, 4, 4, 0)], (128, 128))


GOOD = drawn(6, 3, 128, 128)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"byte 0: expected a first line of #!AER-DAT3.1, found b''"),
        (files.HEADER_2, r"byte 0: expected a first line of #!AER-DAT3.1, found AEDAT 2.0"),
        (b"#!AER-DAT3.1\r\n#Format: RAW\r\n", r"byte 28: expected the header to end with a line #!END-HEADER"),
        (files.HEADER_3.replace(b"RAW", b"PNG"), r"its header: expected #Format: RAW, found '#Format: PNG'"),
        (files.HEADER_3, r"expected packets, and the file ends after its header"),
        (files.HEADER_3 + bytes(27), r"packet 0 at byte \d+: expected a header of 28 bytes, the file ends after 27"),
        (
            files.aedat3_file(files.polarity_packet(GOOD), files.polarity_packet(GOOD)[:-1]),
            r"packet 1 at byte \d+: expected 3 events of 8 bytes, the file ends after 23 bytes",
        ),
        (
            files.aedat3_file(files.polarity_packet(GOOD, kind=77)),
            "packet 0 .*expected a type that cameras write.*found 77",
        ),
        (files.aedat3_file(files.polarity_packet(GOOD, kind=-1)), "packet 0 .*expected a type that .*found -1"),
        (
            files.aedat3_file(files.polarity_packet([*GOOD, (10**6, 5, 16, 0)], kind=0)),
            "packet 0 .*expected codes of special events, 0 to 31, found .*are these polarity events",
        ),
        (files.aedat3_file(files.polarity_packet(GOOD, size=16)), "expected 8 bytes an event of type 1, found 16"),
        (files.aedat3_file(files.polarity_packet(GOOD, kind=2, size=0)), "bytes an event of type 2, found 0"),
        (files.aedat3_file(files.polarity_packet(GOOD, time_at=0)), "expected the time at byte 4 .*found 0"),
        (files.aedat3_file(files.polarity_packet(GOOD, overflows=-1)), "overflows of at least 0, found -1"),
        (files.aedat3_file(files.polarity_packet(GOOD, count=-3, room=-3)), "events of at least 0, found -3"),
        (files.aedat3_file(files.polarity_packet(GOOD, room=9)), "expected room for the 3 events.*found 9"),
        (files.aedat3_file(files.polarity_packet(GOOD, valid=4)), "expected 0 to 3 valid events, found 4"),
        (files.aedat3_file(files.polarity_packet(GOOD, valid=2)), "expected 2 valid events, found 3"),
        (
            files.aedat3_file(files.polarity_packet([(5, 128, 0, 1)])),
            r"packet 0 at byte \d+, event 0: expected x below 128, .*found 128, 0 and 5",
        ),
        (files.aedat3_file(files.polarity_packet([(-5, 1, 0, 1)])), "a time below 2.31, found 1, 0 and 4294967291"),
    ],
)
def test_a_damaged_aedat3_file_is_named_with_packet_byte_and_what_was_expected(write, content, message):
    path = write(content, "user01_led.aedat")
    for read in (read_aedat3, lambda path: spans(path, [(0, 9)])):
        with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
            read(path)


def readers():
    events = drawn(7, 5, 34, 34, 2**15)
    dvs, davis = [files.dvs128_record(*e) for e in events], [files.davis_record(*e, 180, 240) for e in events]
    third = files.aedat3_file(
        files.polarity_packet(events[:3]), files.other_packet(), files.polarity_packet(events[3:])
    )
    return {
        "bin": (files.bin_file(events), lambda path: read_bin(path, size=(34, 34))),
        "aedat2 dvs128": (files.aedat2_file(dvs), lambda path: read_aedat2(path, DVS128)),
        "aedat2 davis": (files.aedat2_file(davis), lambda path: read_aedat2(path, DAVIS240)),
        "aedat3": (third, read_aedat3),
    }


@pytest.mark.parametrize("name", readers())
def test_a_file_cut_anywhere_is_refused_or_holds_whole_records_of_what_it_was(write, name):
    content, read = readers()[name]
    whole, errors = read(write(content)), []
    for length in range(len(content)):
        path = write(content[:length])
        try:
            found = read(path)
        except ValueError as error:
            errors.append(str(error))
        else:
            # no format says how long a file is: whole records or packets are a shorter recording
            assert found == whole[: len(found)]
            assert len(found) < len(whole)
            assert name == "aedat3" or len(whole) - len(found) == -(
                -(len(content) - length) // (5 if name == "bin" else 8)
            )
    assert all("recording, " in error for error in errors)
    assert len(errors) > len(content) / 2


@pytest.mark.parametrize("name", readers())
def test_a_flipped_bit_anywhere_is_refused_by_name_or_changes_single_events_and_loses_none(write, name):
    content, read = readers()[name]
    whole, errors = read(write(content)), []
    header = {"bin": 0, "aedat3": len(files.HEADER_3)}.get(name, len(files.HEADER_2))
    for place in range(len(content)):
        for bit in (place % 8, (place + 3) % 8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path = write(bytes(damaged))
            try:
                found = read(path)
            except ValueError as error:
                errors.append(str(error))
                continue
            lost = len(whole) - len(found)
            # a bit that marks a record as another's than a pixel's cannot be told from a damaged one
            assert 0 <= lost <= (1 if name.startswith("aedat2") else 3), (place, bit)
            if place < header:
                assert found == whole, (place, bit)
    assert all("recording, " in error for error in errors)
    assert errors


DATA = os.environ.get("SBP_DATA")


@pytest.mark.skipif(DATA is None or not Path(DATA, "N-MNIST").is_dir(), reason="needs N-MNIST in $SBP_DATA")
def test_real_recordings_of_nmnist_hold_what_a_plain_loop_reads():
    paths = sorted(Path(DATA, "N-MNIST", "Test").rglob("*.bin"))[:5]
    assert len(paths) == 5
    for path in paths:
        content = path.read_bytes()
        events = []
        for start in range(0, len(content), 5):
            x, y, *rest = content[start : start + 5]
            word = int.from_bytes(rest, "big")
            events.append((word % 2**23, x, y, word // 2**23))
        assert read_bin(path, size=(34, 34)) == as_events(events, (34, 34))
