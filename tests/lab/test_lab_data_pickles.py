import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from sbp_lab.data.pickles import read_pickle

PATH = Path("some/file")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_data_comes_back_as_pickle_reads_it(protocol):
    given = {
        "none": None,
        "flags": [True, False],
        "whole": [0, 255, 256, 65536, -1, 2**40, -(2**80)],
        "floating": 1.5,
        "texts": ("", "a", "ü" * 300, b"", b"abc", b"\xff" * 300),
        "nested": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "b": {}},
        "twice": ["same"] * 3,
    }
    content = pickle.dumps(given, protocol)
    assert read_pickle(PATH, content) == pickle.loads(content) == given
    assert read_pickle(PATH, pickletools.optimize(content)) == given


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i4", "<u8", "<f4", ">f8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_pickle_reads_them(protocol, dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 7, dtype, order)
    given = {"array": array, "empty": array[:0]}
    read = read_pickle(PATH, pickle.dumps(given, protocol))
    for name, expected in given.items():
        np.testing.assert_array_equal(read[name], expected)
        assert read[name].dtype == expected.dtype


class Reduced:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "value",
    [
        Reduced(eval, ("1/0",)),
        Reduced(print, ("x",)),
        Reduced(np.load, ("file",)),
        Reduced(np.dtype, ("O",)),
        Reduced(bytes, (10**12,)),
        np.array([object()]),
        np.zeros(2, [("a", "i4")]),
        np.array(["text"]),
        OrderedDict(a=1),
        {1, 2},
        slice(1),
        1j,
    ],
)
@pytest.mark.parametrize("protocol", range(2, 6))
def test_whatever_is_not_plain_data_is_refused(value, protocol):
    with pytest.raises(ValueError, match=r"some/file, (at or after )?byte \d+: expected .*, found"):
        read_pickle(PATH, pickle.dumps({"value": value}, protocol))


def test_another_encoding_than_latin_1_is_refused():
    # a codec is looked up by name, and its module imported
    content = b"\x80\x02}X\x01\x00\x00\x00ac_codecs\nencode\nX\x01\x00\x00\x00bX\x06\x00\x00\x00base64\x86Rs."
    with pytest.raises(ValueError, match=r"byte .*found encode of str, str"):
        read_pickle(PATH, content)


def test_persistent_and_extension_codes_are_refused():
    for content in (
        b"\x80\x02}X\x01\x00\x00\x00aPfile\ns.",
        b"\x80\x02}X\x01\x00\x00\x00a\x82\x01s.",
        b"\x80\x02(i__main__\nX\n.",
    ):
        with pytest.raises(ValueError, match=r"found the instruction (PERSID|EXT1|INST)"):
            read_pickle(PATH, content)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (pickle.dumps([1]), "something else"),
        (pickle.dumps({"a": 1}) + b"x", "1 more bytes"),
        (pickle.dumps({"a": 1})[:-1], "broken pickle"),
        (b"", "broken pickle"),
        (b"}}.", "something else"),
        (b".", "something else"),
        (b"\x80\x02}(K\x01u.", "a key without a value"),
        (b"\x80\x02}(K\x01K\x01u.", "int as a name"),
        (b"\x80\x02u.", "without the mark"),
        (b"\x80\x02K\x01K\x01a.", "int"),
        (b"\x80\x02a.", "without the values"),
        (b"\x80\x02h\x05.", "broken pickle"),
    ],
)
def test_a_broken_pickle_is_named_with_the_byte(content, found):
    with pytest.raises(ValueError, match=rf"some/file, (at or after )?byte \d+: expected .*, found .*{found}"):
        read_pickle(PATH, content)


def test_an_array_whose_bytes_do_not_fill_its_shape_is_refused():
    content = pickle.dumps({"a": np.zeros((3, 5), np.uint8)}, 4)
    shape = content.index(b"K\x03K\x05\x86")
    for sides in (b"K\x03K\x06\x86", b"K\x02K\x05\x86", b"K\x00K\x05\x86"):
        with pytest.raises(ValueError, match=r"found 15 bytes"):
            read_pickle(PATH, content[:shape] + sides + content[shape + 5 :])


def test_values_that_refer_to_each_other_cost_nothing_and_are_not_walked():
    # each tuple holds the one before twice: 2^60 leaves, were it walked, hashed or printed, which would never end
    double = b"".join(b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) + b"0" for k in range(60))
    with pytest.raises(ValueError, match=r"the instruction POP"):
        read_pickle(PATH, b"\x80\x02K\x01q\x00" + double)
    nested = b"K\x01q\x00" + b"".join(b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(60))
    with pytest.raises(ValueError, match="tuple as a name"):
        read_pickle(PATH, b"\x80\x02}" + nested + b"K\x01s.")
    circular = read_pickle(PATH, b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")
    assert circular["a"]["a"] is circular["a"]
