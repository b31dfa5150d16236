"""Weights by name: checked before anything is written, and files that are whole or say why not."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from sbp_core import ResNetSpec
from sbp_core.reference.networks import initial_weights
from sbp_core.weights import checked, load, save, to_canonical

SPEC = ResNetSpec(depths=(1, 1), widths=(2, 4))
SHAPES = {"conv.weight": (4, 3, 3, 3), "bn.weight": (4,)}


def arrays():
    return {"conv.weight": np.arange(108.0).reshape(4, 3, 3, 3), "bn.weight": np.ones(4)}


def test_weights_come_back_in_the_models_order():
    given = dict(reversed(arrays().items()))
    assert list(checked(SHAPES, given)) == list(SHAPES)


@pytest.mark.parametrize("dtype", [np.int32, bool, np.uint8, complex, "U3", object])
def test_weights_that_are_not_floating_are_refused(dtype):
    with pytest.raises(TypeError, match=r"weights\['bn.weight'\] must hold floating-point numbers"):
        checked(SHAPES, arrays() | {"bn.weight": np.ones(4).astype(dtype)})


def test_bfloat16_is_taken():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which makes bfloat16 arrays, is not installed")
    found = checked({"w": (2,)}, {"w": np.array([0.5, 3.0], ml_dtypes.bfloat16)})["w"]
    assert (found.dtype, found.tolist()) == (np.float32, [0.5, 3.0])


def test_names_missing_and_unknown_are_said_together():
    given = arrays()
    given["conv.wieght"] = given.pop("conv.weight")
    with pytest.raises(ValueError, match=r"missing: 'conv.weight'; unknown: 'conv.wieght'; is .* meant for") as caught:
        checked(SHAPES, given)
    assert "bn" not in str(caught.value)


def test_a_kernel_turns_into_the_shared_layout_and_back():
    kernel = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)  # height, width, inputs, outputs
    axes = to_canonical(4)
    assert kernel.transpose(axes).shape == (7, 5, 2, 3)
    assert kernel.transpose(axes)[6, 4, 1, 2] == kernel[1, 2, 4, 6]
    np.testing.assert_array_equal(kernel.transpose(axes).transpose(np.argsort(axes)), kernel)


def test_a_file_gives_back_arrays_spec_and_notes(tmp_path):
    weights = initial_weights(SPEC, seed=0)
    strided = {name: np.asfortranarray(array) for name, array in weights.items()}
    save(tmp_path / "net.safetensors", strided, spec=SPEC, notes={"data": "digits"})
    found = load(tmp_path / "net.safetensors")
    assert (found.spec, found.notes) == (SPEC, {"data": "digits"})
    assert found.weights.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(found.weights[name], array)


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "net.safetensors"
    save(path, arrays())
    before = path.read_bytes()
    with pytest.raises(TypeError, match="must hold floating-point numbers"):
        save(path, {"w": np.ones(3, int)})
    with pytest.raises(TypeError):
        save(path, arrays(), notes={"bad": object()})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -8])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "net.safetensors"
    save(path, arrays(), spec=SPEC)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"net.safetensors' is no safetensors file, or damaged"):
        load(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (json.dumps({"format": 99, "spec": None, "notes": {}}), r"has format 99.*update sbp"),
        ("not json", "damaged header"),
        (json.dumps({"format": 1}), "damaged header"),
        (
            json.dumps({"format": 1, "spec": {"kind": "abacus"}, "notes": {}}),
            r"net.safetensors' has a network's spec .*kind must be one of",
        ),
    ],
)
def test_a_header_that_cannot_be_read_is_said(tmp_path, header, message):
    path = tmp_path / "net.safetensors"
    save_file({"w": np.ones(2)}, path, {"sbp": header})
    with pytest.raises(ValueError, match=message):
        load(path)


def test_another_programs_safetensors_file_gives_its_arrays(tmp_path):
    save_file({"w": np.ones(2)}, tmp_path / "theirs.safetensors")
    assert load(tmp_path / "theirs.safetensors").weights["w"].tolist() == [1.0, 1.0]
