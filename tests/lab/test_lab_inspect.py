"""``sbp inspect`` shows a network by name or from a file of weights, in a table and a picture."""

import numpy as np
import pytest

from sbp_core import network_spec
from sbp_core import weights as files
from sbp_core.reference.networks import initial_weights
from tests.lab import command


def sbp(*arguments):
    return command.sbp("inspect", *arguments)


def test_a_network_by_name_shows_parameters_and_operations():
    done = sbp("resnet18", "--size", "224", "--classes", "1000")
    assert done.exit_code == 0, done.output
    assert f"{network_spec('resnet18', num_classes=1000).parameter_count:,} parameters, T = 4" in done.output
    assert f"{network_spec('resnet18', num_classes=1000).operations((224, 224)):,}" in done.output
    assert "firing rate" not in done.output


def test_a_file_of_weights_shows_what_its_network_fires_on_data(tmp_path):
    spec = network_spec("mlp", size=(8, 8), time_steps=2)
    weights = initial_weights(spec, 0)
    files.save(tmp_path / "net.safetensors", weights, spec=spec)
    done = sbp(str(tmp_path / "net.safetensors"), "--data", "digits", "--images", "3", "--out", str(tmp_path / "a.png"))
    assert done.exit_code == 0, done.output
    assert "firing rate" in done.output
    assert "synaptic ops" in done.output
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    silent = {name: np.zeros_like(value) for name, value in weights.items()}
    files.save(tmp_path / "net.safetensors", silent, spec=spec)
    assert " 0.0 %" in sbp(str(tmp_path / "net.safetensors"), "--data", "digits").output


def test_trained_weights_are_counted_by_their_own_statistics(tmp_path):
    spec = network_spec("convnet", in_channels=1, time_steps=2)
    weights = initial_weights(spec, 0)
    shrunk = {name: value * (1e6 if name.endswith("running_var") else 1.0) for name, value in weights.items()}
    files.save(tmp_path / "net.safetensors", shrunk, spec=spec)
    # a variance as large leaves nothing to fire; the images' own would
    assert sbp(str(tmp_path / "net.safetensors"), "--data", "digits").output.count("0.0 %") >= 2
    assert "0.0 %" not in sbp("convnet", "--data", "digits").output.replace("100.0 %", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet81"], "got 'resnet81'; did you mean"),
        (["vgg11", "--size", "8"], "layer 'stage4.pool': a window of 2"),
        (["vggsnn", "--size", "7"], "layer 'stage3.pool': a window of 2"),
        (["convnet", "--data", "letters"], "'nmnist', 'npz', 'tonic'; got 'letters'"),
        (["spikformer_cifar", "--classes", "0"], "--classes: classes must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_answered_in_a_line(arguments, message):
    done = sbp(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split()), done.output
