"""One source of the version: what names it elsewhere agrees."""

import re
from pathlib import Path

import sbp_core

ROOT = Path(__file__).parents[2]


def test_the_version_is_written_once_and_its_copies_agree():
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert cited is not None
    assert cited[1] == sbp_core.__version__
    assert newest is not None
    assert newest[1] in (sbp_core.__version__, "Unreleased")
