"""The tutorial shows the example as it is."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_python_block_of_the_tutorial_is_the_examples_own():
    example = (ROOT / "examples" / "autograd_backend.py").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "backend_tutorial.md").read_text(), re.M | re.S)
    assert len(blocks) >= 3
    for block in blocks:
        assert textwrap.dedent(block) in textwrap.dedent(example) or block in example, block
