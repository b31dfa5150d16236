"""Backends are found by name or by factory, and a wrong one is reported as what it is."""

import sys
import types

import pytest

from sbp_core import registry
from sbp_core.backend import DECLARATIONS, PARTS, Backend, Declared, TrainsNetworks
from sbp_core.reference.backend import ReferenceBackend


def module_with(monkeypatch, **members):
    module = types.ModuleType("a_backend_of_mine")
    for name, value in members.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_parts_and_declarations_listed_are_those_of_the_protocols():
    assert set(Declared.__annotations__) == set(DECLARATIONS)
    methods = {name for protocol in (Backend, TrainsNetworks) for name in vars(protocol) if not name.startswith("_")}
    assert methods == set(PARTS)


def test_a_factory_of_ones_own_is_loaded(monkeypatch):
    module_with(monkeypatch, make=ReferenceBackend)
    assert registry.load("a_backend_of_mine:make").name == "reference"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"backend must be one of 'jax', 'keras', 'tf', 'torch'.*got 'abacus'"):
        registry.load("abacus")


def test_what_does_not_say_what_it_is_is_refused_by_the_names_that_are_missing(monkeypatch):
    module_with(monkeypatch, make=lambda: types.SimpleNamespace(name="half", modes=()))
    with pytest.raises(TypeError, match="lacks versions, dtypes"):
        registry.load("a_backend_of_mine:make")


def test_a_factory_may_be_an_attribute_of_a_class(monkeypatch):
    module_with(monkeypatch, makers=types.SimpleNamespace(make=ReferenceBackend))
    assert registry.load("a_backend_of_mine:makers.make").name == "reference"


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("a_backend_of_min", "a_backend_of_min"),
        ("sbp_core.referense.backend", "sbp_core.referense"),
        ("sbp_core.reference.backendd", "sbp_core.reference.backendd"),
    ],
)
def test_a_misspelt_module_is_no_missing_framework(place, named):
    with pytest.raises(ValueError, match=f"^backend '{place}:make_backend': there is no module '{named}'$"):
        registry.load(f"{place}:make_backend")


def fails_to_import(name):
    def make():
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return make


def test_a_missing_framework_is_told_from_a_missing_module_of_the_backends_own(monkeypatch):
    module_with(monkeypatch, wants=fails_to_import("tensorlow.lite"), broken=fails_to_import("a_backend_of_mine.parts"))
    with pytest.raises(ModuleNotFoundError, match="tensorlow"):
        registry.load("a_backend_of_mine:wants")
    with pytest.raises(ImportError, match=r"a_backend_of_mine\.parts") as found:
        registry.load("a_backend_of_mine:broken")
    assert not isinstance(found.value, ModuleNotFoundError)


def test_a_factory_that_is_not_there_or_not_callable_is_refused(monkeypatch):
    module_with(monkeypatch, make=3)
    with pytest.raises(ValueError, match="has no 'build'"):
        registry.load("a_backend_of_mine:build")
    with pytest.raises(ValueError, match="not callable"):
        registry.load("a_backend_of_mine:make")
