"""The examples run as a person would run them, and their networks learn; the benchmark measures what it says."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize(
    ("script", "package", "launcher"),
    [
        ("torch_own_net.py", "torch", ()),
        ("torch_spikingjelly.py", "spikingjelly", ()),
        ("torch_ddp.py", "torch", TORCHRUN),
        ("torch_lightning.py", "lightning", ()),
    ],
)
def test_an_example_trains_the_main_branch_with_a_coefficient_that_ends_at_zero(script, package, launcher, tmp_path):
    for needed in (package, "sklearn"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    command = [sys.executable, *launcher, str(ROOT / "examples" / script)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    assert float(re.findall(r"coefficient ([\d.]+)", result.stdout)[-1]) == 0.0
    assert (
        float(re.findall(r"test accuracy ([\d.]+)%", result.stdout)[-1]) > 90
    )  # 95 to 98.3 when written; chance is 10
    assert ("2 processes, the same weights in each" in result.stdout) == (launcher == TORCHRUN)


def test_the_benchmark_compares_every_contender_with_the_plain_network_round_by_round(tmp_path):
    out = tmp_path / "shortcut.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "shortcut_torch.py"), "--out", str(out)]
    small = ["--width", "2", "--size", "8", "--batch", "2", "--time-steps", "1", "--rounds", "3"]
    result = subprocess.run([*command, *small], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(out.read_text())
    assert {phase: set(names) for phase, names in found["ratios"].items()} == {
        "training step": {"plain", "shortcut", "shortcut, losses apart"},
        "evaluation": {"plain", "shortcut", "stripped"},
    }
    for phase, names in found["seconds"].items():
        plain = names["plain"]
        for name, rounds in names.items():
            ratios = sorted(value[0] / base[0] for value, base in zip(rounds, plain, strict=True))
            assert found["ratios"][phase][name][0] == pytest.approx(ratios[1])
            assert f"| {phase}, {name} | {ratios[1]:.3f} |" in result.stdout
    assert not list(tmp_path.glob("*.partial"))


def test_the_page_on_your_own_network_runs_as_written(tmp_path):
    code = "".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "torch.md").read_text(), re.M | re.S))
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert code.count("sbp_torch.Shortcut(") == 4
    assert result.returncode == 0, result.stderr[-3000:]
