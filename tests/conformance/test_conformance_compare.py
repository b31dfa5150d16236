"""Every comparison passes what is right and fails what is not, and says why."""

import math

import numpy as np
import pytest

from sbp_conformance.compare import absent, close, close_number, equal, native_dtype
from sbp_conformance.precision import SMALLEST_NORMAL

WANT = np.array([[1.0, -2.0], [0.5, 0.0]])


def gradient(got, tolerance=1e-12, dtype="float64", want=WANT):
    return close("g", "gradient", got, want, dtype, tolerance)


def test_equal_spikes_pass():
    found = equal("s", np.array([0.0, 1.0]), np.array([0.0, 1.0]), "float64")
    assert (found.problem, found.error, found.kind) == (None, 0.0, "spikes")


def test_each_differing_spike_is_counted_and_the_first_is_named():
    found = equal("s", np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]]), "float64")
    assert found.error == 2
    assert "2 of 4 differ, at (1, 0) first: got 1, expected 0" in found.problem


def test_a_spike_a_rounding_off_differs():
    assert equal("s", np.array([1.0 + 2.0**-52]), np.array([1.0]), "float64").problem
    assert equal("s", np.array([np.nan]), np.array([1.0]), "float64").problem


def test_a_gradient_within_tolerance_passes_and_reports_its_error():
    found = gradient(WANT + 1e-12)
    assert found.problem is None
    assert found.error == pytest.approx(0.5e-12, rel=1e-3)


def test_the_error_is_relative_to_the_largest_magnitude_expected():
    off = WANT + np.array([[0.0, 0.0], [0.0, 1e-3]])
    found = gradient(off)
    assert found.error == pytest.approx(5e-4)
    assert "off by 0.0005" in found.problem
    assert "at (1, 1): got 0.001, expected 0" in found.problem
    assert gradient(off, tolerance=1e-3).problem is None


def test_a_tolerance_of_0_asks_for_equality():
    assert gradient(WANT.copy(), tolerance=0.0).problem is None
    assert gradient(np.nextafter(WANT, 9.0), tolerance=0.0).problem


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_fails_whatever_the_tolerance(bad):
    got = WANT.copy()
    got[1, 1] = bad
    found = gradient(got, tolerance=1e9)
    assert found.error == math.inf
    assert "at (1, 1)" in found.problem


def test_where_zero_is_expected_zero_is_required():
    zero = np.zeros(3)
    assert gradient(zero.copy(), want=zero).problem is None
    assert gradient(np.array([0.0, 1e-30, 0.0]), want=zero).problem


def test_what_underflows_counts_as_zero():
    tiny = np.array([SMALLEST_NORMAL["float32"] / 4])
    assert close("g", "gradient", np.zeros(1, np.float32), tiny, "float32", 1e-5).problem is None


def test_a_scale_is_the_least_magnitude_to_divide_by():
    assert close("v", "state", np.array([1e-13]), np.array([0.0]), "float64", 1e-12, scale=1.0).problem is None
    assert close("v", "state", np.array([1e-11]), np.array([0.0]), "float64", 1e-12, scale=1.0).problem


@pytest.mark.parametrize(
    ("got", "problem"),
    [
        (None, "wrong type: expected a NumPy array, got NoneType"),
        (WANT.tolist(), "wrong type: expected a NumPy array, got list"),
        (WANT[0], r"wrong shape: expected (2, 2), got (2,)"),
        (WANT[None], r"wrong shape: expected (2, 2), got (1, 2, 2)"),
        (WANT.astype(np.float16), "wrong dtype: expected float64, got float16"),
        (WANT > 0, "wrong dtype: expected float64, got bool"),
    ],
)
def test_a_wrong_type_shape_or_dtype_is_reported_as_that(got, problem):
    for found in (equal("q", got, WANT, "float64"), close("q", "state", got, WANT, "float64", 1.0)):
        assert found.problem == problem
        assert found.error > 0


def test_states_come_in_the_dtype_asked_for_and_gradients_may_be_wider():
    want = WANT.astype(np.float32)
    assert close("v", "state", WANT, want, "float32", 1.0).problem == "wrong dtype: expected float32, got float64"
    assert close("g", "gradient", WANT, want, "float32", 1e-5).problem is None
    assert gradient(want, 1.0).problem == "wrong dtype: expected float64, got float32"


def test_bfloat16_comes_as_float64_and_nothing_else():
    assert equal("s", WANT, WANT, "bfloat16").problem is None
    assert equal("s", WANT.astype(np.float32), WANT, "bfloat16").problem


def test_an_empty_array_of_the_right_shape_passes():
    assert gradient(np.zeros((0, 2)), want=np.zeros((0, 2))).problem is None
    assert gradient(np.zeros((0, 3)), want=np.zeros((0, 2))).problem


def test_numbers_compare_like_arrays():
    assert close_number("l", "value", 2.0, 2.0, "float64", 0.0).problem is None
    assert close_number("l", "value", 2.0 + 1e-9, 2.0, "float64", 1e-12).problem
    assert close_number("l", "value", math.nan, 2.0, "float64", 1.0).error == math.inf
    assert close_number("l", "value", np.float32(2.0), 2.0, "float64", 0.0).problem is None
    assert close_number("l", "value", 1e-9, 0.0, "float64", 1e-12).problem
    assert close_number("l", "value", 1e-9, 0.0, "float64", 1e-6, scale=1.0).problem is None


@pytest.mark.parametrize("got", [None, "2.0", True, np.array([2.0]), [2.0]])
def test_a_number_of_another_type_is_reported_as_that(got):
    assert "wrong type: expected a float" in close_number("l", "value", got, 2.0, "float64", 1.0).problem


def test_what_ought_to_be_absent_must_be():
    assert absent("q", None).problem is None
    assert absent("q", WANT).problem == "wrong type: expected None, got ndarray"


def test_the_dtype_that_a_backend_names_must_be_the_one_asked_for():
    assert native_dtype("float32", "float32").problem is None
    assert native_dtype("float64", "float32").problem == "wrong dtype: asked for float32, got 'float64'"
