"""The printed matrix has the cells of every process, workers and processes that tests start, and no other."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
INNER = """
import pytest

@pytest.mark.matrix("a net", "Torch", "elsewhere")
@pytest.mark.parametrize("right", [True, False])
def test_elsewhere(right):
    assert right

@pytest.mark.matrix("a net", "Other", "here")
def test_in_two_places():
    pass
"""
OUTER = """
import subprocess, sys
import pytest

@pytest.mark.matrix("a net", "Torch", "eager")
def test_right():
    pass

@pytest.mark.matrix("a net", "Torch", "saying")
def test_says(matrix_says):
    matrix_says("ok, in part")

@pytest.mark.matrix("a net", "Torch", "broken")
def test_wrong():
    assert False

@pytest.fixture
def broken():
    raise ValueError

@pytest.mark.matrix("a peer's net", "Torch", "broken")
def test_wrong_before_it_starts(broken):
    pass

@pytest.mark.matrix("a peer's net", "Torch", "eager")
def test_missing():
    pytest.skip("apeer is not installed: it cannot be")

@pytest.mark.matrix("a net", "Other", "here")
def test_not_here():
    pytest.skip("one device; elsewhere there are two")

@pytest.mark.matrix
def test_starts_another():
    subprocess.run([sys.executable, "-m", "pytest", "-q", "inner.py"])

def test_is_no_cell():
    pass
"""
TABLES = """\
| | here |
|---|---|
| a net | ok |
| | elsewhere | eager | saying | broken |
|---|---|---|---|---|
| a net | FAILS | ok | ok, in part | FAILS |
| a peer's net | - | no apeer | - | FAILS |
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
@pytest.mark.parametrize(("select", "tables"), [("matrix or not matrix", TABLES), ("not matrix", "")])
def test_the_tables_are_those_of_every_process(workers, select, tables, tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nmarkers =\n  matrix: a cell\n")
    (tmp_path / "inner.py").write_text(INNER)
    (tmp_path / "test_outer.py").write_text(OUTER)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SBP_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", *workers, "-m", select, "test_outer.py"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    lines = [line for line in result.stdout.splitlines(keepends=True) if line.startswith("|")]
    assert "".join(lines) == tables, result.stdout + result.stderr
    assert ("shortcuts in Torch" in result.stdout) == bool(tables)
    assert not list(tmp_path.glob("sbp_matrix_*"))


def test_long_tests_head_the_shares_that_workers_start_with():
    spec = importlib.util.spec_from_file_location("outer_conftest", CONFTEST)
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)

    class Item(str):
        def get_closest_marker(self, name):
            assert name == "long"
            return self.isupper()

    items = [Item(letter) for letter in "abAcdeBCf"]
    assert conftest.long_first(items, 2) == list("ACabcBdef")
    assert conftest.long_first(items, 1) == list("ABCabcdef")
