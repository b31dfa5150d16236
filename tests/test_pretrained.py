"""Trained networks that are shipped: by name, in each framework, as good as their logs say, with equal spikes."""

import shutil

import numpy as np
import pytest

from sbp_core import pretrained
from sbp_core.weights import load_network
from sbp_lab.data import open_data
from sbp_lab.loader import Loader
from sbp_lab.trained import open_trained
from tests.lab.command import sbp
from tests.test_travel import FRAMEWORKS, adapter, logits_of

DIGITS = [name for name in pretrained.names() if "-digits-" in name]


def images_of(name):
    """Return test images as the network was shown them, ``(batch, channels, height, width)``, and their labels."""
    trained = open_trained(name)
    source = trained.inputs.normalising(open_data("digits"))
    with Loader(source, batch_size=trained.recipe.batch_size, seed=0) as loader:
        images, labels = zip(*loader.test(), strict=True)
    return np.moveaxis(np.concatenate(images), -1, 1), np.concatenate(labels)


def test_there_are_shallow_and_deep_networks_of_each_method_and_one_of_events():
    methods = ("vanilla", "evolutionary", "deep")
    assert set(pretrained.names()) >= {f"resnet{depth}-digits-{each}" for depth in (18, 34) for each in methods}
    assert any("nmnist" in name for name in pretrained.names())


@pytest.mark.parametrize("name", pretrained.names())
def test_a_file_is_small_whole_and_of_the_run_in_its_log(name):
    log = pretrained.log(name)
    path = pretrained.file(name)
    assert path.stat().st_size < 5_000_000
    assert log["accuracy"] == log["run"]["epochs"][-1]["accuracy"]
    trained = open_trained(name)
    assert trained.recipe.to_dict() == trained.recipe.from_dict(log["run"]["recipe"]).to_dict()
    assert trained.spec == load_network(path)[0]


def logits_in(framework, name, images):
    """Return a network's logits of ``(..., batch, channels, height, width)``."""
    package = adapter(framework)
    moved = np.moveaxis(images, -3, -1)
    keras_shape = {"input_shape": (moved.shape if images.ndim == 4 else moved.swapaxes(0, 1).shape)[1:]}
    net = package.load(pretrained.file(name), **(keras_shape if framework == "keras" else {}))
    return logits_of(framework, net, images)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", DIGITS)
def test_a_network_is_as_good_in_each_framework_as_its_log_says(name, framework):
    images, labels = images_of(name)
    logits = logits_in(framework, name, images)
    # a tie within a rounding may fall another way
    assert abs((logits.argmax(-1) == labels).mean() - pretrained.log(name)["accuracy"]) <= 1 / len(labels)
    wanted = logits_in("torch", name, images)
    same = np.isclose(logits, wanted, rtol=0, atol=1e-4).all(-1)
    assert same.mean() >= 0.99, f"spikes of {(~same).sum()} of {len(same)} images differ from torch's"


def test_a_file_that_is_not_what_its_log_says_is_refused(tmp_path, monkeypatch):
    for path in pretrained.file("resnet18-digits-deep").parent.glob("resnet18-digits-deep.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path)
    assert pretrained.names() == ["resnet18-digits-deep"]
    path = pretrained.file("resnet18-digits-deep")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"resnet18-digits-deep.safetensors is damaged: its SHA-256 is"):
        pretrained.file("resnet18-digits-deep")
    with pytest.raises(ValueError, match="name must be one of 'resnet18-digits-deep'; got 'resnet18'"):
        pretrained.file("resnet18")


def test_the_command_lists_and_tests_them_and_writes_nothing_beside_them(tmp_path):
    folder = pretrained.file("resnet18-digits-deep").parent
    before = sorted(folder.iterdir())
    listed = sbp("pretrained").output
    assert all(name in listed for name in pretrained.names())
    done = sbp("evaluate", "resnet18-digits-deep", "-T", "2", "--count", "0")
    assert done.exit_code == 0, done.output
    assert f"{100 * pretrained.log('resnet18-digits-deep')['accuracy']:.2f}" in done.output
    assert "Wrote" not in done.output
    assert sorted(folder.iterdir()) == before
    written = sbp("evaluate", "resnet18-digits-deep", "-T", "2", "--count", "0", "--out", str(tmp_path / "e.json"))
    assert written.exit_code == 0
    assert (tmp_path / "e.json").is_file()
