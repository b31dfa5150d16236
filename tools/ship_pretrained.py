"""Puts a run's last weights among the networks that are shipped: ``ship_pretrained.py RUN NAME COMMAND``."""

import json
import shutil
import sys
from pathlib import Path

from sbp_core import pretrained
from sbp_core.weights import load_network
from sbp_lab.results import describe
from sbp_lab.trained import open_trained

LARGEST = 5_000_000


def ship(run: Path, name: str, command: str) -> Path:
    """Copy the weights and write their log, and return its path."""
    content = json.loads((run / "results.json").read_text())
    if not content["complete"]:
        raise SystemExit(f"{run} is not finished")
    trained = open_trained(run, "last")
    load_network(trained.file)
    if trained.file.stat().st_size >= LARGEST:
        raise SystemExit(f"{trained.file} must be smaller than {LARGEST} bytes")
    place = Path("sbp_core/pretrained", name).with_suffix(".safetensors")
    shutil.copyfile(trained.file, place)
    found = {
        "schema": pretrained.SCHEMA,
        "about": f"{describe(trained.recipe)}, {trained.recipe.method}, seed {trained.recipe.seed}",
        "command": command,
        "accuracy": content["accuracy"],
        "sha256": pretrained.digest(place),
        "run": content,
    }
    path = place.with_suffix(".json")
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


if __name__ == "__main__":
    print(ship(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
