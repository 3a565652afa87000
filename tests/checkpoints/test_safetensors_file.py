from __future__ import annotations

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.checkpoints.weights import load_weights, save_weights
from drsformer_jax.errors import UserError


def test_file_has_torch_names_and_says_what_it_is(tmp_path, weights):
    path = tmp_path / "w.safetensors"
    save_weights(path, weights)
    expected = from_tree(weights.params, weights.config)
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
        header = file.metadata()
    assert header["format"] == "drsformer"
    assert json.loads(header["architecture"]) == weights.config.architecture()
    assert (header["recipe"], header["score"]) == ("rain100l", "31.2 dB")


def test_free_strings_cannot_replace_the_architecture(tmp_path, weights):
    weights.metadata.update(format="pt", architecture="{}")
    path = tmp_path / "w.safetensors"
    save_weights(path, weights)
    assert load_weights(path).config == weights.config


def test_torch_reads_the_file(tmp_path, weights):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import load_file

    path = tmp_path / "w.safetensors"
    save_weights(path, weights)
    tensors = load_file(path)
    for name, array in from_tree(weights.params, weights.config).items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)


def test_without_our_header_the_architecture_is_inferred(tmp_path, small, random_state):
    path = tmp_path / "other.safetensors"
    state = {f"module.{name}": array for name, array in random_state(small).items()}
    save_file(state, path, metadata={"format": "pt", "author": "me"})
    loaded = load_weights(path)
    assert loaded.config == small
    assert loaded.metadata == {"author": "me"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32_and_it_is_said(tmp_path, small, random_state, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "half.safetensors"
    state = {
        name: torch.from_numpy(array).to(getattr(torch, dtype))
        for name, array in random_state(small).items()
    }
    save_torch(state, path)
    # A fresh process: here other modules have already taught NumPy the half types.
    code = (
        "import sys; from pathlib import Path\n"
        "from drsformer_jax.checkpoints.safetensors_file import read_safetensors\n"
        "read = read_safetensors(Path(sys.argv[1]))\n"
        "tensor = read.tensors['output.weight']\n"
        "print(tensor.dtype, read.metadata['notes'], 'jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    note = f"{len(state)} tensors of {dtype} converted to float32, exactly"
    assert done.stdout.strip() == f"float32 {note} False"
    kernel = load_weights(path).params["output"]["kernel"]
    expected = state["output.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize("kept", [5, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_a_users_error(tmp_path, weights, kept):
    path = tmp_path / "w.safetensors"
    save_weights(path, weights)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(UserError, match=r"w\.safetensors is truncated, damaged"):
        load_weights(path)


@pytest.mark.parametrize(
    "architecture", [None, "no json", "[1]", '{"dim": "x"}', '{"dim": 7}', '{"depth": 3}']
)
def test_a_bad_header_is_a_users_error(tmp_path, small, random_state, architecture):
    path = tmp_path / "w.safetensors"
    metadata = {"format": "drsformer"}
    if architecture is not None:
        metadata["architecture"] = architecture
    save_file(random_state(small), path, metadata=metadata)
    with pytest.raises(UserError, match=r"w\.safetensors (has no readable|describes a network)"):
        load_weights(path)


def test_tensors_that_do_not_fit_the_header_are_listed(tmp_path, weights):
    path = tmp_path / "w.safetensors"
    state = from_tree(weights.params, weights.config)
    del state["output.weight"]
    header = json.dumps(weights.config.architecture())
    save_file(state, path, metadata={"format": "drsformer", "architecture": header})
    with pytest.raises(UserError, match=r"1 missing: output\.weight"):
        load_weights(path)


def test_integers_and_nan_are_refused(tmp_path, small, random_state):
    path = tmp_path / "w.safetensors"
    save_file({"a": np.zeros(2, np.int32)}, path)
    with pytest.raises(UserError, match=r"not floating-point: a \(I32\)"):
        load_weights(path)
    state = random_state(small)
    state["latent.0.attn.attn1"][:] = np.inf
    save_file(state, path)
    with pytest.raises(
        UserError, match=r"infinite values \(in float32\) in latent\.0\.attn\.attn1"
    ):
        load_weights(path)


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)),
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}",
        struct.pack("<Q", 4) + b"{]]}",
    ],
    ids=["bytes", "absurd-header", "long-header", "no-json"],
)
def test_another_kind_of_file_is_refused(tmp_path, refused, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    refused(path, "truncated, damaged or not a safetensors file")


def test_a_tensor_larger_than_the_file_is_refused(tmp_path, refused):
    tensor = {"dtype": "F32", "shape": [2**40, 2**10], "data_offsets": [0, 2**52]}
    header = json.dumps({"latent.0.attn.attn1": tensor}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    refused(path, "truncated, damaged or not a safetensors file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_blocks": [10**9] * 4}, "more than 1000 in a level"),
        ({"dim": 10**9}, "cannot be built: 21280000000 channels in a layer"),
        ({"dim": 16}, "wrong shape"),
        ("[" * 200_000, "no readable architecture"),
    ],
)
def test_an_absurd_header_is_refused(tmp_path, small, random_state, refused, change, message):
    path = tmp_path / "w.safetensors"
    text = change if isinstance(change, str) else json.dumps({**small.architecture(), **change})
    save_file(random_state(small), path, metadata={"format": "drsformer", "architecture": text})
    refused(path, message)


def test_an_empty_tensor_is_refused(tmp_path, small, random_state, refused):
    path = tmp_path / "w.safetensors"
    save_file({**random_state(small), "output.weight": np.zeros((0, 16, 3, 3), "f4")}, path)
    refused(path, r"1 wrong shape: output\.weight \(0, 16, 3, 3\)")


def test_float64_is_rounded_and_what_does_not_fit_is_refused(
    tmp_path, small, random_state, refused
):
    path = tmp_path / "w.safetensors"
    state = {name: np.float64(array) + 1e-12 for name, array in random_state(small).items()}
    save_file(state, path)
    loaded = load_weights(path)
    assert loaded.metadata["notes"].endswith("of float64 rounded to float32, which loses digits")
    kernel = np.float32(state["output.weight"]).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded.params["output"]["kernel"], kernel)
    state["output.weight"][0, 0, 0, 0] = 1e300
    save_file(state, path)
    refused(path, r"infinite values \(in float32\) in output\.weight")
