"""Weights saved in one framework give the same logits, and bit-equal spikes, in the others."""

import importlib.util

import numpy as np
import pytest

from sbp_core import weights as shared
from tests.networks import NETS, drawn

FRAMEWORKS = {"torch": "sbp_torch", "jax": "sbp_jax", "keras": "sbp_keras"}


def adapter(name):
    package = {"keras": "keras", "jax": "flax", "torch": "torch"}[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return importlib.import_module(FRAMEWORKS[name])


def logits_of(name, net, images):
    """Return the logits in evaluation, of ``(batch, channels, height, width)``."""
    last = np.moveaxis(images, 1, -1)
    if name == "torch":
        import torch

        with torch.no_grad():
            return net.eval()(torch.from_numpy(images)).numpy()
    if name == "jax":
        import jax

        with jax.enable_x64(True):
            net.eval()
            return np.asarray(net(jax.numpy.asarray(last)))
    import keras

    return keras.ops.convert_to_numpy(net(last, training=False))


@pytest.mark.parametrize("name", ["vgg", "attention", "joins"])
def test_every_adapter_reads_what_every_adapter_wrote(name, tmp_path):
    spec = NETS[name].spec
    weights, batch = drawn(name)
    weights = {path.removeprefix("main."): value for path, value in weights.items() if path.startswith("main.")}
    images = batch.images.astype("float32")
    shared.save(tmp_path / "first.safetensors", weights, spec=spec)
    found = {}
    file = tmp_path / "first.safetensors"
    for framework in FRAMEWORKS:
        package = adapter(framework)
        arguments = {"input_shape": (*images.shape[2:], images.shape[1])} if framework == "keras" else {}
        net = package.load(file, **arguments)
        assert net.spec == spec
        found[framework] = logits_of(framework, net, images)
        file = tmp_path / f"{framework}.safetensors"
        package.save(file, net)
    for framework, logits in found.items():
        np.testing.assert_allclose(logits, found["torch"], rtol=0, atol=2e-5, err_msg=framework)
    again = shared.load(file)
    assert again.spec == spec
    for path, value in weights.items():
        np.testing.assert_array_equal(again.weights[path], np.float32(value))


def test_a_wrapped_network_is_saved_with_its_branches_and_read_without(tmp_path):
    torch = adapter("torch")
    net = torch.Network(NETS["resnet"].spec)
    model = torch.Shortcut(net, "stages", 4)
    torch.save(tmp_path / "all.safetensors", model)
    assert set(shared.load(tmp_path / "all.safetensors").weights) == set(torch.export_weights(model))
    again = torch.export_weights(torch.load(tmp_path / "all.safetensors"))
    for path, value in torch.export_weights(net).items():
        np.testing.assert_array_equal(again[path], value)


def test_a_file_that_does_not_hold_the_network_it_names_is_refused_whole(tmp_path):
    torch = adapter("torch")
    spec = NETS["vgg"].spec
    weights = torch.export_weights(torch.Network(spec))
    file = tmp_path / "net.safetensors"
    shared.save(file, weights)
    with pytest.raises(ValueError, match="does not say which network it is of"):
        torch.load(file)
    shared.save(file, {path: value for path, value in weights.items() if path != "head.weight"}, spec=spec)
    with pytest.raises(ValueError, match=r"net.safetensors' holds other weights than .* missing: 'head.weight'"):
        torch.load(file)
    shared.save(file, weights | {"head.weight": weights["head.weight"][:, :-1]}, spec=spec)
    with pytest.raises(ValueError, match=r"weights\['head.weight'\] must have shape \(8, 8\), got \(8, 7\)"):
        torch.load(file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"net.safetensors' is no safetensors file, or damaged"):
        torch.load(file)
    with pytest.raises(TypeError, match="model must be a Network, or a Shortcut of one"):
        torch.save(file, __import__("torch").nn.Linear(2, 2))
