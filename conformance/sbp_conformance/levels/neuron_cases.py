"""The cases of the neuron level.

- ``pairs``: every combination of reset, its timing, output delay, detached reset and synapse, and every pair of values
  of all the family's factors; eager.
- ``compiled``: every pair of the factors that change the graph, few and short, for compilers are slow; eager as well.
- ``preset``: every neuron that :mod:`sbp_core.presets` names. ``readout``: neurons that never fire.
- ``range``: fields at the edges of what they may be, sizes of one, six axes.
- ``wide``: every pair of the factors that change the loops over more elements than blocks, threads or fused loops begin
  at, none a multiple of a block. ``long``: hundreds of steps.
- ``clif``: every pair of the factors of a neuron with a complementary state, two of them compiled, two wide.
- ``follows``: a surrogate whose width follows the potentials.
- ``tie``: potentials exactly on the threshold, in every dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from sbp_conformance.levels.base import Case, Tolerance, tolerances
from sbp_conformance.levels.neuron import EdgeOfRangeCase, NeuronCase, TieCase, WideCase
from sbp_conformance.pairwise import Row, pairwise
from sbp_conformance.precision import DTYPES, FULL, HALF
from sbp_core import (
    ArcTan,
    Exponential,
    FastSigmoid,
    Gaussian,
    LeakyRectangle,
    LIFSpec,
    Rectangle,
    Sigmoid,
    StraightThrough,
    Tanh,
    Triangle,
    presets,
)
from sbp_core.specs.surrogates import FAMILIES

_DECAY_LOGIT = 0.4
# a step of the recursion, forward or backward: the synapse's product and sum, the leak's, the reset's, the surrogate's
_ROUNDINGS_PER_STEP = 6

# a fresh potential of 0 lies just on an edge of the default leaky rectangle, a jump that no draw can keep away from
SURROGATES = tuple(LeakyRectangle(width=1.6) if family is LeakyRectangle else family() for family in FAMILIES.values())
STRUCTURE: dict[str, tuple[Any, ...]] = {
    "reset": ("hard", "soft", "none"),
    "reset_timing": ("now", "next"),
    "output_delay": (0, 1),
    "detach_reset": (False, True),
    "synaptic_decay": (None, 0.4),
}
FACTORS: dict[str, tuple[Any, ...]] = STRUCTURE | {
    "inclusive": (False, True),
    "decay": (0.0, 0.5, 0.9, 1.0, "learnt"),
    "input_gain": (1.0, 0.7, "complement"),
    "threshold": (1.0, 0.65),
    "levels": ((0.0, 0.0), (0.1, -0.2), (-0.3, 0.0), (0.0, 0.25)),  # rest and reset_value
    "surrogate": (
        *SURROGATES,
        Rectangle(width=1.7),
        Gaussian(height=0.5, width=1.5),
        Tanh(height=0.8, width=0.7),
    ),
    "with_state": (False, True),
    # few shapes of a step: a framework that compiles each operation does so again for each of them
    "shape": ((1, 2, 3), (4, 2, 3), (20, 2, 3), (4, 5), (4, 2, 2, 3, 2)),
}
COMPILED_FACTORS: dict[str, tuple[Any, ...]] = STRUCTURE | {
    "decay": (0.9, "learnt"),
    "with_state": (False, True),
}

PRESETS: dict[str, LIFSpec] = {
    "paper-lif": presets.paper_lif(),
    "spikingjelly-lif": presets.spikingjelly_lif(),
    "spikingjelly-lif-soft": presets.spikingjelly_lif(tau=4.0, decay_input=False, v_reset=None),
    "spikingjelly-lif-detached": presets.spikingjelly_lif(v_reset=-0.2, detach_reset=True),
    "spikingjelly-plif": presets.spikingjelly_lif(learn_decay=True),
    "spikingjelly-clif": presets.spikingjelly_clif(tau=3.0),
    "spikingjelly-if": presets.spikingjelly_if(),
    "spikingjelly-if-soft": presets.spikingjelly_if(v_reset=None),
    "snntorch-leaky": presets.snntorch_leaky(beta=0.9),
    "snntorch-leaky-zero": presets.snntorch_leaky(beta=0.9, reset_mechanism="zero"),
    "snntorch-leaky-zero-now": presets.snntorch_leaky(beta=0.8, reset_mechanism="zero", reset_delay=False),
    "snntorch-leaky-none": presets.snntorch_leaky(beta=0.8, reset_mechanism="none"),
    "snntorch-synaptic": presets.snntorch_synaptic(alpha=0.8, beta=0.9),
    "norse-lif-box": presets.norse_lif_box(),
    "norse-lif-box-rest": presets.norse_lif_box(v_leak=0.2, v_reset=-0.1),
    "norse-lif": presets.norse_lif(),
    "spyx-lif": presets.spyx_lif(beta=0.8),
}

READOUTS: dict[str, LIFSpec] = {
    "readout": LIFSpec.leaky_integrator(),
    "readout-rest": LIFSpec.leaky_integrator(decay=0.9, rest=0.3, input_gain=0.5),
    "readout-synapse": LIFSpec.leaky_integrator(decay=0.8, synaptic_decay=0.6),
    "readout-learnt": LIFSpec.leaky_integrator(learn_decay=True, input_gain="complement"),
}

# what a neuron may be, and is not by default: shape, spec, and the logit of a learnt decay
RANGES: dict[str, tuple[tuple[int, ...], LIFSpec, float | None]] = {
    "threshold-0": ((4, 2, 3), LIFSpec(threshold=0.0, surrogate=Triangle()), None),
    "threshold-0-soft": ((4, 2, 3), LIFSpec(threshold=0.0, rest=-0.2, reset="soft", reset_timing="next"), None),
    "threshold-below-0": ((4, 2, 3), LIFSpec(threshold=-0.4, reset="soft", inclusive=True, surrogate=ArcTan()), None),
    "threshold-below-0-delayed": ((4, 2, 3), LIFSpec(threshold=-0.7, output_delay=1, surrogate=Sigmoid()), None),
    "gain-0": ((4, 2, 3), LIFSpec(input_gain=0.0, threshold=0.2, surrogate=ArcTan()), None),
    "gain-below-0": ((4, 2, 3), LIFSpec(input_gain=-0.6, surrogate=Gaussian()), None),
    "synapse-0": ((4, 2, 3), LIFSpec(synaptic_decay=0.0, surrogate=Triangle()), None),
    "synapse-1": ((4, 2, 3), LIFSpec(synaptic_decay=1.0, surrogate=FastSigmoid(width=0.5)), None),
    "reset-above-threshold": ((4, 2, 3), LIFSpec(reset_value=1.6, surrogate=ArcTan()), None),
    "reset-above-threshold-next": ((4, 2, 3), LIFSpec(reset_value=1.3, reset_timing="next", surrogate=Tanh()), None),
    "rest-above-threshold": ((4, 2, 3), LIFSpec(rest=1.4, decay=0.8, surrogate=Sigmoid()), None),
    "complement-1": ((4, 2, 3), LIFSpec(decay=1.0, input_gain="complement", threshold=0.3, surrogate=ArcTan()), None),
    "complement-0": ((4, 2, 3), LIFSpec(decay=0.0, input_gain="complement", surrogate=ArcTan()), None),
    "decay-nearly-1": ((6, 2, 3), LIFSpec(learn_decay=True, input_gain="complement", surrogate=ArcTan()), 7.0),
    "decay-nearly-0": ((6, 2, 3), LIFSpec(learn_decay=True, reset="soft", surrogate=ArcTan()), -7.0),
    "readout-all": (
        (5, 2, 3),
        LIFSpec.leaky_integrator(learn_decay=True, synaptic_decay=0.7, rest=-0.4, input_gain=-1.5),
        0.9,
    ),
    "one-step-one-sample-one-neuron": ((1, 1, 1), LIFSpec(surrogate=ArcTan()), None),
    "one-sample": ((4, 1, 3), LIFSpec(synaptic_decay=0.3, surrogate=Triangle(width=2.0)), None),
    "one-neuron": ((4, 2, 1), LIFSpec(learn_decay=True, surrogate=ArcTan()), 0.4),
    "two-axes-of-one": ((3, 1), LIFSpec(reset_timing="next", surrogate=ArcTan()), None),
    "six-axes": ((3, 2, 1, 2, 1, 2), LIFSpec(reset="soft", surrogate=ArcTan()), None),
    "initial-potential": ((4, 2, 3), LIFSpec(initial_potential=0.6, rest=-0.2, decay=0.9, surrogate=ArcTan()), None),
    "initial-above-threshold-next": (
        (4, 2, 3),
        LIFSpec(initial_potential=1.4, reset_timing="next", output_delay=1, surrogate=ArcTan()),
        None,
    ),
    "all-small": ((4, 2, 3), LIFSpec(decay=0.04, input_gain=0.03, threshold=0.06, surrogate=ArcTan()), None),
    "one-sample-with-a-state": ((4, 1, 3), LIFSpec(decay=0.8, surrogate=ArcTan()), None),
    "all-large": ((4, 2, 3), LIFSpec(decay=0.97, input_gain=3.2, threshold=4.3, surrogate=Gaussian(width=3.0)), None),
}

# elements on the far side of 2^12, 2^15 and 2^16, short and long, tails after blocks of any size
WIDE_SHAPES = ((4, 2, 8513), (3, 5, 641), (7, 2, 37, 11, 13), (130, 3, 263))
WIDE_FACTORS: dict[str, tuple[Any, ...]] = STRUCTURE | {
    "decay": (0.9, "learnt"),
    "input_gain": (1.0, 0.7, "complement"),
    "threshold": (1.0, 0.65),
    "with_state": (False, True),
    "shape": WIDE_SHAPES,
}

CLIF_FACTORS: dict[str, tuple[Any, ...]] = {
    "complementary_state": (True,),
    "reset": ("hard", "soft"),
    "output_delay": (0, 1),
    "detach_reset": (False, True),
    "synaptic_decay": (None, 0.4),
    "inclusive": (False, True),
    "decay": (0.0, 0.6, 1.0, "learnt"),
    "input_gain": (1.0, 0.7, "complement"),
    "levels": ((0.0, 0.0), (0.1, -0.2)),
    "surrogate": (ArcTan(), Rectangle(width=1.7), Triangle(width=1.5)),
    "with_state": (False, True),
    "shape": ((1, 2, 3), (4, 2, 3), (20, 2, 3)),
}

FOLLOWS_FACTORS: dict[str, tuple[Any, ...]] = {
    "width_follows": (True,),
    "reset": ("hard", "soft", "none"),
    "reset_timing": ("now", "next"),
    "detach_reset": (False, True),
    "decay": (0.6, "learnt"),
    "levels": ((0.0, 0.0), (0.1, -0.2)),
    "surrogate": (ArcTan(width=0.8), Rectangle(width=1.7), Triangle(width=1.5)),
    "with_state": (False, True),
    "shape": ((4, 2, 3), (20, 2, 3)),
}

# factors that are powers of two: none of these rounds
TIES: dict[str, LIFSpec] = {
    "hard": LIFSpec(),
    "soft": LIFSpec(reset="soft", surrogate=Triangle()),
    "none": LIFSpec(reset="none", surrogate=Sigmoid()),
    "hard-next": LIFSpec(reset_timing="next", reset_value=-0.5, surrogate=ArcTan()),
    "soft-next": LIFSpec(reset="soft", reset_timing="next", detach_reset=True, surrogate=FastSigmoid()),
    "hard-delayed": LIFSpec(output_delay=1, rest=0.25, surrogate=Gaussian()),
    "soft-next-delayed": LIFSpec(reset="soft", reset_timing="next", output_delay=1, surrogate=Tanh()),
    "integrate": LIFSpec(decay=1.0, surrogate=Exponential()),
    "complement": LIFSpec(input_gain="complement", surrogate=LeakyRectangle()),
    "synapse": LIFSpec(synaptic_decay=0.5, surrogate=StraightThrough()),
}


def cases() -> tuple[Case, ...]:
    """Return all of them."""
    return (*_pairs(), *_compiled(), *_named(), *_ranges(), *_wide(), *_long(), *_clif(), *_follows(), *_ties())


def _pairs() -> list[NeuronCase]:
    rows = pairwise(FACTORS, seed=1, complete=tuple(STRUCTURE), allowed=_has_input)
    return [_of_row(f"pairs-{index:03d}", 2000 + index, row) for index, row in enumerate(rows)]


def _has_input(row: Mapping[str, Any]) -> bool:
    # the complement of a decay of 1 is a gain of 0
    return not (row.get("decay") == 1.0 and row.get("input_gain") == "complement")


def _compiled() -> list[NeuronCase]:
    rows = pairwise(COMPILED_FACTORS, seed=1)
    surrogates = itertools.cycle(SURROGATES)
    return [
        _of_row(
            f"compiled-{index:02d}",
            2300 + index,
            row | {"surrogate": next(surrogates), "levels": (0.1, -0.2), "shape": (3, 2, 3)},
            compiled=(FULL[index % 2],),
            vmapped=(FULL[(index + 1) % 2],),
        )
        for index, row in enumerate(rows)
    ]


def _of_row(name: str, seed: int, row: Row, **fields: Any) -> NeuronCase:
    given = dict(row)
    rest, reset_value = given.pop("levels")
    decay = given.pop("decay")
    shape, with_state = given.pop("shape"), given.pop("with_state")
    learnt = {"learn_decay": True} if decay == "learnt" else {"decay": decay}
    spec = LIFSpec(rest=rest, reset_value=reset_value, **learnt, **given)
    traits = [spec.reset, spec.reset_timing, *(["delayed"] if spec.output_delay else [])]
    return _case("-".join([name, *traits]), seed, spec, shape, with_state=with_state, **fields)


def _named() -> list[NeuronCase]:
    named = {f"preset-{name}": spec for name, spec in PRESETS.items()} | READOUTS
    compiled = {"readout-learnt": ("float32",)}
    return [
        _case(name, 2400 + index, spec, (4, 2, 3), with_state=index % 2 == 1, compiled=compiled.get(name, ()))
        for index, (name, spec) in enumerate(named.items())
    ]


def _ranges() -> list[NeuronCase]:
    return [
        _case(
            f"range-{name}",
            2800 + index,
            spec,
            shape,
            kind=EdgeOfRangeCase,
            decay_logit=logit or 0.0,
            with_state=index % 2 == 0 and spec.initial_potential is None,
            # float32 does not hold 1 minus a decay that is nearly 1
            dtypes=(FULL[0 if spec.learn_decay else index % 2],),
        )
        for index, (name, (shape, spec, logit)) in enumerate(RANGES.items())
    ]


def _wide() -> list[NeuronCase]:
    # smooth surrogates: their formulas cost most, and no draw of thousands keeps off many jumps for long
    surrogates = itertools.cycle((ArcTan(), Rectangle(width=1.7), Sigmoid(), Triangle()))
    readout = LIFSpec.leaky_integrator(decay=0.9, synaptic_decay=0.4, rest=0.2, input_gain=0.7)
    return [
        _case("wide-readout", 2990, readout, WIDE_SHAPES[0], kind=WideCase, dtypes=("float32",), with_state=True)
    ] + [
        _of_row(
            f"wide-{index:02d}",
            2900 + index,
            row | {"surrogate": next(surrogates), "levels": (0.1, -0.2)},
            kind=WideCase,
            dtypes=(FULL[index % 2],),
            compiled=("float64",) if index == 0 else (),
        )
        for index, row in enumerate(pairwise(WIDE_FACTORS, seed=1))
    ]


def _long() -> list[NeuronCase]:
    spec = LIFSpec(decay=0.9, synaptic_decay=0.5, surrogate=ArcTan(), learn_decay=True)
    soft = LIFSpec(decay=0.95, reset="soft", surrogate=Triangle(width=1.5))
    return [
        _case("long-100-steps", 2500, spec, (100, 2, 3), with_state=True),
        _case("long-257-steps", 2501, soft, (257, 1, 2), dtypes=("float64",)),
        _case(
            "long-131-steps-delayed",
            2502,
            soft.replace(output_delay=1),
            (131, 2, 3),
            dtypes=("float32",),
            compiled=("float32",),
        ),
    ]


def _clif() -> list[NeuronCase]:
    rows = pairwise(CLIF_FACTORS, seed=1, allowed=_has_input)
    plain = [_of_row(f"clif-{index:02d}", 9000 + index, row) for index, row in enumerate(rows)]
    spec = LIFSpec.complementary(learn_decay=True, input_gain="complement", rest=0.1, surrogate=ArcTan())
    hard = LIFSpec.complementary(reset="hard", output_delay=1, decay=0.8, surrogate=Sigmoid())
    return [
        *plain,
        _case("clif-compiled-soft", 9100, spec, (3, 2, 3), compiled=("float64",), vmapped=("float32",)),
        _case("clif-compiled-hard", 9101, hard, (3, 2, 3), compiled=("float32",), with_state=True),
        _case("clif-wide", 9102, spec, WIDE_SHAPES[1], kind=WideCase, dtypes=("float64",)),
        _case("clif-wide-long", 9103, hard, WIDE_SHAPES[3], kind=WideCase, dtypes=("float32",), with_state=True),
    ]


def _follows() -> list[NeuronCase]:
    rows = pairwise(FOLLOWS_FACTORS, seed=1)
    both = LIFSpec.complementary(width_follows=True, surrogate=ArcTan())
    return [
        *(_of_row(f"follows-{index:02d}", 9200 + index, row) for index, row in enumerate(rows)),
        _case("follows-clif", 9300, both, (3, 2, 3), compiled=("float64",), with_state=True),
    ]


def _ties() -> list[NeuronCase]:
    """Return each tie with ``>`` and with ``>=``, on a coarse grid that fits half precision and on one of 2^-8."""
    compiled = {"tie-hard-gt-coarse": ("bfloat16",), "tie-soft-next-ge-fine": ("float32",)}
    found: list[NeuronCase] = []
    ties = itertools.product(TIES.items(), (False, True), (("coarse", 2, DTYPES), ("fine", 7, FULL)))
    for index, ((name, spec), inclusive, (grid, bits, dtypes)) in enumerate(ties):
        full = f"tie-{name}-{'ge' if inclusive else 'gt'}-{grid}"
        found.append(
            _case(
                full,
                2600 + index,
                spec.replace(inclusive=inclusive),
                (4, 2, 3),
                with_state=index % 4 > 1,
                kind=TieCase,
                bits=bits,
                dtypes=dtypes,
                compiled=compiled.get(full, ()),
            )
        )
    learnt = LIFSpec(learn_decay=True, surrogate=Triangle())
    found.append(_case("tie-learnt", 2700, learnt, (4, 2, 3), kind=TieCase, bits=7, dtypes=FULL, decay_logit=0.0))
    return found


def _case(
    name: str,
    seed: int,
    spec: LIFSpec,
    shape: tuple[int, ...],
    *,
    kind: type[NeuronCase] = NeuronCase,
    decay_logit: float = _DECAY_LOGIT,
    **fields: Any,
) -> NeuronCase:
    allowed = tolerances(_ROUNDINGS_PER_STEP * shape[0])
    if kind is TieCase:  # no operation rounds: states are equal
        allowed = {dtype: Tolerance(value=0.0, gradient=allowed[dtype].gradient) for dtype in (*FULL, *HALF)}
    defaults: dict[str, Any] = {"dtypes": FULL, "tolerances": allowed}
    return kind(
        name=f"neuron-{name}",
        seed=seed,
        spec=spec,
        shape=shape,
        decay_logit=decay_logit if spec.learn_decay else None,
        **(defaults | fields),
    )
