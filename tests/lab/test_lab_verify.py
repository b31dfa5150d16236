"""``sbp verify`` makes a run's first steps again: equal bits are called equal, one other bit is not."""

import json
import shutil

import numpy as np
import pytest

from sbp_lab.data import open_data
from sbp_lab.recipe import Recipe
from sbp_lab.training import StepDone, train
from sbp_lab.training.first_steps import FILE, FirstSteps, fingerprint
from sbp_lab.verification import verify
from tests.lab.command import sbp
from tests.lab.small_run import SMALL, small_run

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    # an augmentation and branches, so that the loader's chance and the schedule count too
    recipe = Recipe.from_dict(SMALL | {"augment": ["flip"], "method": "evolutionary"})
    return small_run(tmp_path_factory.mktemp("run") / "run", augment=recipe.augment, method="evolutionary")


def changed(run, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    content = json.loads((folder / FILE).read_text())
    change(content)
    (folder / FILE).write_text(json.dumps(content))
    return folder


def test_a_run_keeps_the_losses_of_its_steps_to_the_last_bit(tmp_path):
    losses = []
    recipe = Recipe(**SMALL)
    train(recipe, tmp_path / "run", source=open_data("digits"),
          on_event=lambda event: losses.append(event.loss) if isinstance(event, StepDone) else None)  # fmt: skip
    kept = FirstSteps.read(tmp_path / "run")
    assert [float.fromhex(step.loss) for step in kept.steps] == losses[:3]
    assert len({step.state for step in kept.steps}) == 3


def test_the_same_steps_come_out_the_same(run):
    done = sbp("verify", str(run))
    assert done.exit_code == 0, done.output
    assert "3 steps of torch came out bit for bit the same" in done.output
    # here and now nothing is another
    assert verify(run, open_data("digits")).differences == ()


def test_one_bit_of_a_loss_is_seen(run, tmp_path):
    def change(content):
        loss = np.nextafter(np.float32(float.fromhex(content["steps"][1]["loss"])), np.float32(9))
        content["steps"][1]["loss"] = float(loss).hex()

    done = sbp("verify", str(changed(run, tmp_path, change)))
    assert done.exit_code == 1
    assert "step 1: equal" in done.output
    assert "step 2: loss differ" in done.output
    assert "Data, versions, machine and settings are the same" in done.output


def test_another_seed_is_seen_in_every_step_and_in_the_state(run, tmp_path):
    found = verify(
        changed(run, tmp_path, lambda content: content["recipe"].update(seed=1)), open_data("digits"), steps=2
    )
    assert [each.different for each in found.steps] == [("loss", "gradient", "state")] * 2


def test_other_versions_machine_data_and_settings_are_named(run, tmp_path):
    def change(content):
        content["versions"]["torch"] = "1.0"
        content["machine"]["processor"] = "abacus"
        content["settings"]["OMP_NUM_THREADS"] = "77"
        content["data"]["checksum"] = "other"

    done = sbp("verify", str(changed(run, tmp_path, change)))
    assert done.exit_code == 0, done.output  # the bits are the same
    for text in ("version of torch: 1.0 then", "processor: abacus then", "OMP_NUM_THREADS: 77 then", "checksum: other"):
        assert text in done.output


def test_a_fingerprint_changes_with_name_type_shape_and_bits():
    array = np.arange(4, dtype=np.float32)
    others = [
        {"b": array},
        {"a": array.astype(np.float64)},
        {"a": array.reshape(2, 2)},
        {"a": np.nextafter(array, 9)},
        {"a": array, "b": array},
    ]
    assert len({fingerprint(each) for each in [{"a": array}, *others]}) == 6
    # laid out in memory in another way it is the same
    square = np.arange(4.0).reshape(2, 2)
    assert fingerprint({"a": square}) == fingerprint({"a": np.asfortranarray(square)})


def test_a_folder_without_steps_or_with_damaged_ones_is_refused(run, tmp_path):
    done = sbp("verify", str(tmp_path))
    assert done.exit_code == 2
    assert "no step of the run was made, or an earlier sbp made it" in done.output
    broken = changed(run, tmp_path, lambda content: content["steps"][0].pop("loss"))
    with pytest.raises(ValueError, match="is damaged"):
        FirstSteps.read(broken)
    (broken / FILE).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        FirstSteps.read(broken)
