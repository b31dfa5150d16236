"""The cases are what they claim: they cover the family, keep off the jumps or sit exactly on the threshold."""

import itertools
import math

import numpy as np
import pytest

from sbp_conformance import LEVELS, cases_of
from sbp_conformance.levels import neuron_cases
from sbp_conformance.levels.neuron import GUARD, EdgeOfRangeCase, TieCase
from sbp_conformance.levels.surrogate import PRESETS
from sbp_conformance.pairwise import pairwise
from sbp_conformance.precision import DTYPES, UNIT_ROUNDOFF, representable
from sbp_core import LIFSpec, Surrogate, presets
from sbp_core.reference import neuron as reference_neuron
from sbp_core.specs.surrogates import FAMILIES

NEURONS = cases_of("neuron")
TIES = [case for case in NEURONS if isinstance(case, TieCase)]
RANDOM = [case for case in NEURONS if not isinstance(case, TieCase)]
SPIKING = [case for case in RANDOM if case.spec.output == "spikes"]


def by_name(case):
    return case.name


def every_case():
    return [case for level in LEVELS for case in cases_of(level)]


def test_names_and_seeds_are_unique():
    names = [case.name for case in every_case()]
    assert len(set(names)) == len(names)
    drawn = [case.seed for case in every_case() if case.level != "schedule"]
    assert len(set(drawn)) == len(drawn)


def test_a_case_states_a_tolerance_for_each_of_its_dtypes():
    for case in every_case():
        assert set(case.compiled) <= set(case.dtypes) <= set(DTYPES)
        for dtype in case.dtypes:
            assert 0.0 <= case.tolerances[dtype].value < 0.1, case.name
            assert 0.0 <= case.tolerances[dtype].gradient < 0.1, case.name


def test_gradient_tolerances_are_the_promised_ones():
    for case in every_case():
        if case.level in ("surrogate", "neuron"):
            assert case.tolerances["float64"].gradient == 1e-12
            assert case.tolerances["float32"].gradient == 1e-5


def test_the_same_cases_come_again():
    again = {case.name: case for case in neuron_cases.cases()}
    for case in NEURONS[::10]:
        np.testing.assert_array_equal(again[case.name].drawn.x, case.drawn.x)


def test_every_reset_timing_delay_detachment_and_synapse_occurs_together():
    wanted = set(itertools.product(*neuron_cases.STRUCTURE.values()))
    found = {tuple(getattr(case.spec, name) for name in neuron_cases.STRUCTURE) for case in SPIKING}
    assert wanted <= found


def values_of(case):
    spec = case.spec
    return {
        **{name: getattr(spec, name) for name in neuron_cases.FACTORS if hasattr(spec, name)},
        "decay": "learnt" if spec.learn_decay else spec.decay,
        "levels": (spec.rest, spec.reset_value),
        "with_state": case.with_state,
        "shape": case.shape,
    }


def test_every_pair_of_the_compiled_factors_occurs_in_few_cases():
    chosen = [case for case in SPIKING if case.compiled]
    assert len(chosen) <= 13
    rows = [values_of(case) for case in chosen]
    for (a, first), (b, second) in itertools.combinations(neuron_cases.COMPILED_FACTORS.items(), 2):
        assert set(itertools.product(first, second)) <= {(row[a], row[b]) for row in rows}


def test_every_pair_of_the_familys_factors_occurs():
    rows = [values_of(case) for case in SPIKING]
    for (a, first), (b, second) in itertools.combinations(neuron_cases.FACTORS.items(), 2):
        found = {(row[a], row[b]) for row in rows}
        wanted = set(itertools.product(first, second)) - {(1.0, "complement")}
        assert wanted <= found, (a, b, wanted - found)


def test_every_surrogate_family_and_every_preset_occurs():
    surrogates = [case.surrogate for case in cases_of("surrogate")]
    assert {type(surrogate) for surrogate in surrogates} == set(FAMILIES.values())
    compiled = {type(case.spec.surrogate) for case in NEURONS if case.compiled}
    compiled |= {type(case.surrogate) for case in cases_of("surrogate") if case.compiled}
    assert compiled >= set(FAMILIES.values()) - {FAMILIES["straight_through"]}

    made = {
        name: value for name, value in vars(presets).items() if name.split("_")[0] in _LIBRARIES and callable(value)
    }
    results = {name: function for name, function in made.items() if function.__annotations__["return"] != "LIFSpec"}
    assert set(results) == set(PRESETS)
    neurons = {name.replace("_", "-") for name in set(made) - set(results)}
    assert neurons <= set(neuron_cases.PRESETS)
    assert all(isinstance(value, Surrogate) for value in PRESETS.values())
    assert all(isinstance(value, LIFSpec) for value in neuron_cases.PRESETS.values())


_LIBRARIES = ("paper", "spikingjelly", "snntorch", "norse", "spyx", "braincog", "braintools", "sinabs")


def test_runs_of_one_and_of_a_hundred_steps_and_of_five_axes_occur():
    lengths = {case.shape[0] for case in NEURONS}
    assert {1, 20, 100} <= lengths
    assert {2, 3, 5} <= {len(case.shape) for case in NEURONS}


@pytest.mark.parametrize("case", SPIKING, ids=by_name)
def test_random_potentials_keep_off_the_threshold_and_the_surrogates_edges(case):
    given = case.inputs("float32")
    assert reference_neuron.margin(case.spec, given.x, given.state, decay=case.decay) >= GUARD
    # the guard is far wider than what float32 and float64 differ by
    wide, narrow = case.expected("float64"), case.expected("float32")
    assert np.max(np.abs(wide.state.potential - narrow.state.potential)) < GUARD / 50


def test_most_random_cases_fire_and_keep_silent():
    cases = [case for case in SPIKING if not isinstance(case, EdgeOfRangeCase)]
    rates = [case.expected("float64").output.mean() for case in cases if case.shape[0] > 1]
    assert all(0.0 < rate < 1.0 for rate in rates)


@pytest.mark.parametrize("case", TIES, ids=by_name)
def test_ties_land_on_the_threshold_and_no_operation_rounds(case):
    potentials = case.potentials()
    ties = potentials == case.spec.threshold
    assert ties.sum() >= 3
    assert (~ties).sum() >= 3
    for dtype in case.dtypes:
        np.testing.assert_array_equal(representable(potentials, dtype), potentials)
        np.testing.assert_array_equal(case.inputs(dtype).x, case.drawn.x)


@pytest.mark.parametrize("case", TIES, ids=by_name)
def test_the_other_comparison_fires_elsewhere_on_a_tie(case):
    x, state, *_ = case.drawn
    other = case.spec.replace(inclusive=not case.spec.inclusive)
    ours, _ = reference_neuron.forward(case.spec, x, state, decay=case.decay)
    theirs, _ = reference_neuron.forward(other, x, state, decay=case.decay)
    assert not np.array_equal(theirs, ours)


def test_fine_ties_are_multiples_of_two_to_the_minus_eight():
    for case in TIES:
        if case.name.endswith("fine") and case.spec.synaptic_decay is None and case.spec.decay == 0.5:
            scaled = case.drawn.x * 2.0**9
            np.testing.assert_array_equal(scaled, np.round(scaled))


def test_surrogate_points_lie_at_0_near_the_edges_and_far_away():
    for case in cases_of("surrogate"):
        for dtype in DTYPES:
            points = case.points(dtype)
            assert np.all(np.isfinite(points))
            assert 0.0 in points
            assert np.abs(points).max() >= 9900
            width = getattr(case.surrogate, "width", 1.0)
            if dtype == "float64":
                for edge in (-width, -width / 2, width / 2, width):
                    assert np.any((points > edge) & (points < edge + 0.05 * width))
                    assert np.any((points < edge) & (points > edge - 0.05 * width))


@pytest.mark.parametrize("dtype", DTYPES)
def test_representable_rounds_to_half_a_unit_and_not_again(dtype):
    values = np.random.default_rng(5).normal(size=200)
    rounded = representable(values, dtype)
    assert np.max(np.abs(rounded - values) / np.abs(values)) <= UNIT_ROUNDOFF[dtype]
    np.testing.assert_array_equal(representable(rounded, dtype), rounded)


def test_representable_rounds_bfloat16_as_its_own_package_does():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.concatenate([np.random.default_rng(6).normal(size=500), [1 + 2.0**-8, 1 + 3 * 2.0**-8, 0.0, -2.5]])
    expected = values.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_array_equal(representable(values, "bfloat16"), expected)
    assert representable(np.float64(1.00390625), "bfloat16").shape == ()


def test_pairwise_covers_every_pair_with_fewer_rows_than_the_product():
    factors = {"a": range(4), "b": range(3), "c": range(3), "d": range(2), "e": range(2)}
    rows = pairwise(factors, seed=0, complete=("d", "e"))
    for a, b in itertools.combinations(factors, 2):
        assert {(row[a], row[b]) for row in rows} == set(itertools.product(factors[a], factors[b]))
    assert len(rows) < 30 < math.prod(map(len, factors.values()))
    assert rows == pairwise(factors, seed=0, complete=("d", "e"))


def test_pairwise_leaves_out_what_is_not_allowed_and_says_if_nothing_is_left():
    factors = {"a": (0, 1), "b": (0, 1), "c": (0, 1)}
    rows = pairwise(factors, seed=0, allowed=lambda row: not (row.get("a") == 1 and row.get("b") == 1))
    assert (1, 1) not in {(row["a"], row["b"]) for row in rows}
    with pytest.raises(ValueError, match="no allowed row"):
        pairwise(factors, seed=0, allowed=lambda row: len(row) < 3)
