"""What the tests of the suite share."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def python(tmp_path):
    """Run Python in a folder of its own, with what this process can import and what the folder holds."""
    path = os.pathsep.join([str(tmp_path), *(str(Path(entry).absolute()) for entry in sys.path if entry)])

    def run(*arguments, **files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        environment = os.environ | {"PYTHONPATH": path}
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    return run
