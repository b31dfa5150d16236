"""The class that CONTRIBUTING walks through is a surrogate as it stands there."""

import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest

from sbp_core import as_surrogate
from sbp_core.specs import surrogates

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def family(monkeypatch):
    # as if it stood in the module that the page names
    block = textwrap.dedent(re.search(r"```python\n(.*?)```", TEXT, re.S)[1])
    module = types.ModuleType("contributed")
    vars(module).update({name: value for name, value in vars(surrogates).items() if not name.startswith("__")})
    monkeypatch.setitem(sys.modules, "contributed", module)
    exec(block, vars(module))
    return module.Epanechnikov


def test_the_class_of_the_page_is_its_formula_and_known_by_name(family):
    x, step = np.array([-1.5, -0.4, 0.0, 0.3, 0.99, 2.0]), 1e-6
    surrogate = family(width=0.7, height=1.3)
    np.testing.assert_allclose(surrogate.derivative(x, np), 1.3 * np.maximum(0.0, 1.0 - (x / 0.7) ** 2))
    slope = (surrogate.antiderivative(x + step) - surrogate.antiderivative(x - step)) / (2 * step)
    np.testing.assert_allclose(slope, surrogate.derivative(x, np), atol=1e-5)
    assert as_surrogate("epanechnikov") == family()
    assert surrogate.derivative(np.array([surrogate.half_width]), np)[0] == pytest.approx(surrogate.peak / 2)


@pytest.mark.parametrize("command", ["make quick", "make test", "sbp_conformance"])
def test_the_commands_of_the_page_exist(command):
    root = Path(__file__).parents[2]
    assert command in TEXT
    name = command.removeprefix("make ")
    assert f"\n{name}:" in (root / "Makefile").read_text() or (root / "conformance" / name / "__main__.py").exists()
