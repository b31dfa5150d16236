"""The core imports no framework, and an adapter without its framework says what to install."""

import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "tensorflow", "jax", "keras", "flax")
IMPORT_ALL = """
import importlib, pkgutil, sys, sbp_core
for module in pkgutil.walk_packages(sbp_core.__path__, "sbp_core."):
    importlib.import_module(module.name)
{extra}
print(",".join(name for name in {frameworks!r} if name in sys.modules))
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def imported_frameworks(extra=""):
    result = run(IMPORT_ALL.format(frameworks=FRAMEWORKS, extra=extra))
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_core_imports_no_framework_and_prints_nothing_else():
    assert imported_frameworks() == ""


def test_the_check_above_would_notice_a_framework():
    pytest.importorskip("jax", reason="JAX is not installed")
    assert imported_frameworks("import jax") == "jax"


@pytest.mark.parametrize(
    ("adapter", "framework", "extra"),
    [
        ("sbp_torch", "torch", "torch"),
        ("sbp_tf", "tensorflow", "tf"),
        ("sbp_jax", "jax", "jax"),
        ("sbp_keras", "keras", "tf"),
    ],
)
def test_an_adapter_without_its_framework_says_which_extra_to_install(adapter, framework, extra):
    result = run(
        f"""
import sys
sys.modules[{framework!r}] = None
try:
    import {adapter}
except ModuleNotFoundError as error:
    print(error)
"""
    )
    assert f'pip install ".[{extra}]"' in result.stdout, result.stdout + result.stderr
