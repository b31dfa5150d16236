"""The benchmarks run, small, and write what they say they write. No time is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
    """Run a benchmark in a process of its own."""
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.parametrize("script", ["neuron_cpu.py", "scaling_cpu.py", "resnet_cpu.py"])
def test_a_benchmark_writes_times_with_machine_and_versions(script, tmp_path):
    out = tmp_path / "result.json"
    assert "| sbp |" in run(script, "--out", out) or script == "scaling_cpu.py"
    result = json.loads(out.read_text())
    assert result["machine"]["threads"] == 1
    assert "torch" in result["versions"]
    for case in result.get("cases", [result]):
        rounds = {len(values) for values in case["seconds"].values()}
        assert len(rounds) == 1
        assert all(seconds > 0 for values in case["seconds"].values() for seconds in values)


def test_the_gpu_checks_run_their_logic_on_a_cpu(tmp_path):
    parts = ("layer", "memory", "open_neuromorphic", "resnet")
    run("gpu_checks.py", "--device", "cpu", "--out", tmp_path, *(word for part in parts for word in ("--part", part)))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {name: part["outcome"] for name, part in summary["parts"].items()} == dict.fromkeys(parts, "done")
    kept = json.loads((tmp_path / "memory.json").read_text())["result"]["kept over input"]
    assert kept > 0


def test_a_failing_gpu_check_is_written_down_and_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_checks

    monkeypatch.setattr(gpu_checks.Checks, "equality", lambda self: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py", "--device", "cpu", "--quick", "--out", str(tmp_path)])
    monkeypatch.setattr(gpu_checks, "PARTS", ("equality", "memory"))
    with pytest.raises(SystemExit) as stopped:
        gpu_checks.main()
    assert stopped.value.code
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "ZeroDivisionError" in summary["parts"]["equality"]["outcome"]
    assert summary["parts"]["memory"]["outcome"] == "done"
