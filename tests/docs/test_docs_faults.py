"""Every test that the list of faults names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CELLS = re.findall(r"^\| .* \| (`.*) \|$", (ROOT / "docs" / "faults.md").read_text(), re.M)


def named():
    for cell in CELLS:
        file = ""
        for name in re.findall(r"`([^`]+)`", cell):
            path, _, test = name.partition("::")
            file = path or file
            yield file, test


@pytest.mark.parametrize(("file", "test"), list(named()))
def test_a_test_that_is_named_exists(file, test):
    path = ROOT / file
    assert path.is_file()
    if test:
        assert test in {
            node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
        }


def test_the_list_names_tests_for_each_fault():
    assert len(CELLS) == 21
