"""Every Python block of the README and of the pages in docs/ runs as written."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"PyTorch": "torch", "Keras 3": "keras", "JAX": "jax", "TensorFlow": "tensorflow", "Recipes": ""}
KERAS_BACKENDS = ("tensorflow", "jax", "torch")


def python_blocks(page):
    """Return the page's Python code by heading."""
    sections, heading = {}, ""
    text = (ROOT / page).read_text()
    for match in re.finditer(r"^#+ (?P<heading>[^\n]+)$|^```python\n(?P<code>.*?)^```$", text, re.M | re.S):
        if match["heading"]:
            heading = match["heading"].strip()
        else:
            sections[heading] = sections.get(heading, "") + match["code"]
    return sections


def snippets():
    for page in ("README.md", "docs/usage.md"):
        sections = python_blocks(page)
        first = sections.pop("Specs", "")
        for heading, code in sections.items():
            # the README's block runs on each backend of Keras; the usage page's, which is much like it, on the default
            keras_backends = KERAS_BACKENDS if page == "README.md" else KERAS_BACKENDS[:1]
            for keras_backend in keras_backends if heading == "Keras 3" else ("",):
                yield pytest.param(
                    heading, first + code, keras_backend, id=f"{page}-{heading}-{keras_backend}".strip("-")
                )


def run(code, tmp_path, *frameworks, **settings):
    for framework in filter(None, frameworks):
        if importlib.util.find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed")
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, f"{code}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.mark.parametrize(("heading", "code", "keras_backend"), list(snippets()))
def test_snippet_runs_as_written(heading, code, keras_backend, tmp_path, request):
    settings = {"KERAS_BACKEND": keras_backend} if keras_backend else {}
    printed = run(code, tmp_path, FRAMEWORKS[heading], keras_backend, **settings)
    if "README" in request.node.name:
        # a reader sees that it worked, and it did: chance is 10 %
        assert int(re.search(r"^accuracy (\d+)%$", printed, re.M)[1]) >= 20


def test_the_readmes_snippets_need_nothing_that_its_install_line_leaves_out():
    for heading, code in python_blocks("README.md").items():
        assert "sklearn" not in code, heading


@pytest.mark.parametrize(
    ("page", "framework"),
    [
        ("jax", "jax"),
        ("tf", "tensorflow"),
        ("performance", "torch"),
        ("using", "torch"),
        ("doctor", "torch"),
        *(("keras", name) for name in KERAS_BACKENDS),
    ],
)
def test_page_runs_as_written(page, framework, tmp_path):
    code = "".join(python_blocks(f"docs/{page}.md").values())
    assert code.count("\n") > 2
    run(code, tmp_path, framework, **({"KERAS_BACKEND": framework} if page == "keras" else {}))


def test_the_zoos_page_runs_as_written(tmp_path):
    sections = python_blocks("docs/zoo.md")
    # that one starts from a network of SpikingJelly's: tests/torch/test_torch_spikingjelly_port.py
    assert "from_spikingjelly" in sections.pop("From SpikingJelly")
    run("".join(sections.values()), tmp_path, "torch")
    assert (tmp_path / "net.safetensors").exists()


def test_a_recipe_or_method_that_is_shown_reads_and_its_network_is_built(tmp_path):
    pytest.importorskip("cyclopts", reason="the lab is not installed")
    from sbp_lab.methods import read_method
    from sbp_lab.recipe import Recipe

    shown = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs/usage.md").read_text(), re.M | re.S)
    assert shown
    for text in shown:
        if text.startswith("summary"):
            path = tmp_path / "mine.toml"
            path.write_text(text)
            recipe = Recipe().with_method(read_method(path))
        else:
            recipe = Recipe.from_toml(text)
        assert recipe.network(size=(32, 32), num_classes=10, in_channels=3).parameter_count


def test_both_pages_show_every_framework():
    for page in ("README.md", "docs/usage.md"):
        assert {"PyTorch", "Keras 3", "JAX"} <= set(python_blocks(page)), page


@pytest.mark.parametrize(
    ("page", "frameworks"),
    [("keras", ("keras", "tensorflow")), ("lightning", ("lightning",)), ("jax", ("flax", "orbax"))],
)
def test_own_loops_learn_go_on_and_log_the_coefficient(page, frameworks, tmp_path):
    code = "".join(python_blocks(f"docs/own_loop_{page}.md").values())
    settings = {"KERAS_BACKEND": "tensorflow"} if page == "keras" else {}
    printed = run(code, tmp_path, *frameworks, **settings)
    # a part of one epoch, then the rest, by three epochs of digits; chance is 10 %
    assert int(re.search(r"^accuracy (\d+)%$", printed, re.M)[1]) >= 60
    logs = [path.read_bytes() for path in tmp_path.rglob("events.out.tfevents.*")]
    assert len(logs) >= 2
    for content in logs:
        assert b"coefficient" in content
        assert b"accuracy" in content
    assert list(tmp_path.glob("inference.*"))


@pytest.mark.parametrize("page", ["keras", "lightning", "jax"])
def test_a_block_of_an_own_loop_is_short(page):
    text = (ROOT / f"docs/own_loop_{page}.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) >= 2
    assert all(block.count("\n") <= 40 for block in blocks)
