import re
from pathlib import Path

import numpy as np

from sbp_lab.data.registry import DATASETS

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
ARRAYS, OWN = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def test_the_pages_example_of_arrays_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(ARRAYS, names)
    np.testing.assert_allclose(names["source"].mean, names["images"][20:].mean((0, 1, 2)))
    np.testing.assert_array_equal(names["image"], names["images"][23])
    assert names["label"] == names["labels"][23]


def test_the_pages_example_of_a_data_set_of_ones_own_runs_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        exec(OWN, {})
    finally:
        DATASETS.pop("birds", None)
    assert capsys.readouterr().out == "('owl1.npy', 'tit1.npy')\n"


def test_every_data_set_is_on_the_page():
    lacking = [name for name in DATASETS if f"`{name}`" not in PAGE.read_text()]
    assert not lacking
