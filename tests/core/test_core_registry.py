"""Backends are found by name or by factory, and a wrong one is reported as what it is."""

import sys
import types

import pytest

from sbp_core import registry
from sbp_core.backend import MEMBERS, Backend
from sbp_core.reference.backend import ReferenceBackend


def module_with(monkeypatch, **members):
    module = types.ModuleType("a_backend_of_mine")
    for name, value in members.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_members_listed_are_those_of_the_protocol():
    declared = set(Backend.__annotations__) | {name for name in vars(Backend) if not name.startswith("_")}
    assert set(MEMBERS) == declared


def test_a_factory_of_ones_own_is_loaded(monkeypatch):
    module_with(monkeypatch, make=ReferenceBackend)
    assert registry.load("a_backend_of_mine:make").name == "reference"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"backend must be one of 'jax', 'keras', 'tf', 'torch'.*got 'abacus'"):
        registry.load("abacus")


def test_a_backend_that_lacks_members_is_refused_by_their_names(monkeypatch):
    module_with(monkeypatch, make=lambda: types.SimpleNamespace(name="half", versions={}, modes=(), dtypes=()))
    with pytest.raises(TypeError, match="lacks spike, neuron, loss, schedule"):
        registry.load("a_backend_of_mine:make")


def test_a_factory_that_is_not_there_or_not_callable_is_refused(monkeypatch):
    module_with(monkeypatch, make=3)
    with pytest.raises(ValueError, match="has no 'build'"):
        registry.load("a_backend_of_mine:build")
    with pytest.raises(ValueError, match="not callable"):
        registry.load("a_backend_of_mine:make")
