"""Which part of an output is meant."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from sbp_core.selection import check_select, of_each, part, replaced


class Pair(NamedTuple):
    loss: Any
    logits: Any


@dataclass(frozen=True)
class Record:
    loss: Any
    logits: Any


OUTPUTS = [
    ((1.0, 2.5), 1),
    ([1.0, 2.5], -1),
    ({"loss": 1.0, "logits": 2.5}, "logits"),
    (OrderedDict(loss=1.0, logits=2.5), "logits"),
    (Pair(1.0, 2.5), "logits"),
    (Pair(1.0, 2.5), 1),
    (Record(1.0, 2.5), "logits"),
    (2.5, None),
]


@pytest.mark.parametrize(("output", "select"), OUTPUTS, ids=repr)
def test_a_part_is_taken_and_put_back_in_an_output_of_the_same_kind(output, select):
    assert part("net", output, select, "output", float) == 2.5
    changed = replaced(output, select, 7.0)
    assert type(changed) is type(output)
    assert part("net", changed, select, "output", float) == 7.0
    assert part("net", output, select, "output", float) == 2.5  # left as it was
    assert select is None or part("net", changed, lambda whole: min(_values(whole)), "output", float) == 1.0


def _values(whole):
    return whole.values() if isinstance(whole, dict) else (1.0,) if isinstance(whole, Record) else whole


@pytest.mark.parametrize(
    ("output", "select", "error", "message"),
    [
        ((1.0,), 1, ValueError, r"select=1 does not exist: tap 'a' gave a tuple of the parts 0"),
        ({"x": 1.0}, "y", ValueError, r"gave a dict of the keys \['x'\]"),
        (Pair(1.0, 2.0), "y", ValueError, "gave a Pair of the parts loss, logits"),
        (Record(1.0, 2.0), 0, ValueError, "gave a Record of the parts loss, logits"),
        ((1.0,), "y", ValueError, "gave a tuple of the parts 0"),
        (1.0, 0, TypeError, "takes a part of a tuple, list or mapping, but tap 'a' gave a float"),
        ((1.0, 2.0), None, TypeError, "tap 'a' must give an array, it gave a tuple; say with select which part"),
        ((None, 2.0), 0, TypeError, "with select=0 gave a NoneType"),
    ],
)
def test_a_part_that_is_not_there_or_no_array_is_refused(output, select, error, message):
    with pytest.raises(error, match=message):
        part("tap 'a'", output, select, "select", float)


def test_only_what_selects_is_taken():
    for select in (None, 0, "logits", len):
        check_select("select", select)
    with pytest.raises(TypeError, match="select must be an index, a key, a function or None, got True"):
        check_select("select", True)
    with pytest.raises(TypeError, match="output must be an index, a key or None"):
        check_select("output", len, or_function=False)


def test_a_mapping_for_taps_may_name_taps_alone():
    with pytest.raises(ValueError, match=r"branch must be given for taps, 'a'; got 'b'"):
        of_each("branch", {"b": 1}, ("a",), None)
