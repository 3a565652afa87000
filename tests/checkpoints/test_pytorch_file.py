from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from drsformer_jax.checkpoints import pytorch_file
from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.checkpoints.weights import load_weights, save_weights
from drsformer_jax.errors import UserError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture
def state(small, random_state):
    return {name: torch.from_numpy(array) for name, array in random_state(small).items()}


class Touch:
    """Creates a file when unpickled without restraint."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("container", ["params", "params_ema", "state_dict", "bare"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_containers_and_prefix(tmp_path, small, random_state, state, container, prefix):
    tensors = {prefix + name: tensor for name, tensor in state.items()}
    path = tmp_path / "net_g.pth"
    torch.save(tensors if container == "bare" else {container: tensors, "iter": 7}, path)
    loaded = load_weights(path)
    assert loaded.config == small
    assert loaded.metadata == {"source": "net_g.pth", "container": container}
    for name, array in from_tree(loaded.params, small).items():
        np.testing.assert_array_equal(array, random_state(small)[name])


def test_of_params_and_average_the_params_are_used_and_it_is_said(tmp_path, state):
    path = tmp_path / "both.pth"
    average = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({"params_ema": average, "params": state}, path)
    loaded = load_weights(path)
    assert np.any(loaded.params["output"]["kernel"])
    assert loaded.metadata["notes"] == "used params; the file also has params_ema"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32_and_it_is_said(tmp_path, state, dtype):
    path = tmp_path / "half.pth"
    converted = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}
    torch.save({"params": converted}, path)
    loaded = load_weights(path)
    kernel = loaded.params["patch_embed"]["kernel"]
    assert kernel.dtype == np.float32
    expected = converted["patch_embed.proj.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)
    how = "rounded to float32, which" if dtype == "float64" else "converted to float32, exactly"
    assert f"{len(state)} tensors of {dtype} {how}" in loaded.metadata["notes"]


def test_old_file_format_is_read(tmp_path, state, small):
    path = tmp_path / "old.pth"
    torch.save({"params": state}, path, _use_new_zipfile_serialization=False)
    assert load_weights(path).config == small


def test_loaded_weights_outlive_the_file(tmp_path, state):
    path = tmp_path / "x.pth"
    torch.save({"params": state}, path)
    loaded = load_weights(path)
    path.write_bytes(b"")
    assert np.all(np.isfinite(loaded.params["output"]["kernel"]))


def test_written_file_loads_strictly_into_the_torch_module(tmp_path, weights, assert_same):
    from drsformer_jax.parity.torch_drsformer import DRSformer

    config = weights.config
    module = DRSformer(
        dim=config.dim, num_blocks=config.num_blocks, heads=config.heads, use_mefc=False
    )
    path = tmp_path / "out.pth"
    save_weights(path, weights)
    content = torch.load(path, weights_only=True)
    assert list(content) == ["params"]
    module.load_state_dict(content["params"], strict=True)
    assert all(tensor.is_contiguous() for tensor in content["params"].values())
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert_same(arrays, from_tree(weights.params, config))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_malicious_pickle_is_not_run(tmp_path, state, wrapped):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    if wrapped:
        torch.save({"params": state, "extra": Touch(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Touch(trace), protocol=2))
    # The trap works: unpickled without restraint it does what it says.
    pickle.loads(pickle.dumps(Touch(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()
    with pytest.raises(UserError, match=r"evil\.pth") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_refusal_names_the_python_object(tmp_path):
    path = tmp_path / "module.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"object \(torch\.nn\.modules\.linear\.Linear\).*refused"):
        load_weights(path)


SCALARS = {
    "best_psnr": np.float64(38.25),
    "history": [np.float32(0.5), np.float16(-2), {"ssim": np.longdouble(0.25)}],
    "epoch": np.int64(-3),
    "step": np.uint8(200),
    "finished": np.bool_(True),
    "name": np.str_("r\u00e9seau"),
}


@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])
def test_scalars_of_numpy_beside_the_weights_are_read(tmp_path, state, small, module):
    path = tmp_path / "x.pth"
    torch.save({"params": state, **SCALARS}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray\nscalar" in content
    path.write_bytes(content.replace(b"numpy._core.multi", f"{module}.multi".encode()))
    allowed = set(torch.serialization.get_safe_globals())
    assert load_weights(path).config == small
    found = pytorch_file.load_file(path)
    assert {key: found[key] for key in SCALARS} == SCALARS
    for value in (found["best_psnr"], found["epoch"], found["finished"], found["name"]):
        assert type(value).__module__ == "builtins"
    # What was allowed for one file is not left allowed.
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_a_scalar_of_objects_is_refused(tmp_path, state):
    class Trap:
        def __reduce__(self):
            return np._core.multiarray.scalar, (np.dtype("O"), "anything")

    path = tmp_path / "x.pth"
    torch.save({"params": state, "x": Trap()}, path)
    with pytest.raises(UserError, match=r"x\.pth .*(numpy\.dtypes\.ObjectDType|damaged)"):
        load_weights(path)


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (np.zeros(3), r"numpy\.ndarray"),
        (np.datetime64("2024-01-01"), r"numpy\.dtypes\.DateTime64DType"),
        (datetime.datetime(2024, 1, 1), r"datetime\.datetime"),
        (argparse.Namespace(lr=1), r"argparse\.Namespace"),
        (pathlib.PurePosixPath("a"), r"pathlib\.(_local\.)?PurePosixPath"),
        (np.random.default_rng(0), r"numpy\.random\S+"),
    ],
)
def test_other_objects_beside_the_weights_are_refused_by_name(tmp_path, state, thing, name):
    path = tmp_path / "x.pth"
    torch.save({"params": state, "thing": thing}, path)
    message = rf"x\.pth holds a Python object \({name}\).*refused; save the tensors alone"
    with pytest.raises(UserError, match=message) as error:
        load_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [10, 0.5, 0.99])
def test_a_truncated_file_is_a_users_error(tmp_path, state, kept, zipped):
    path = tmp_path / "x.pth"
    torch.save({"params": state}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(UserError, match=r"x\.pth is truncated, damaged or not a PyTorch"):
        load_weights(path)


@pytest.mark.parametrize("content", [b"\0\1\2\3", b"PK\x03\x04 no zip", b"\x80\x02"])
def test_another_kind_of_file_is_a_users_error(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a PyTorch weight file"):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 3}, r"holds no weights under .*: it has epoch"),
        ({}, "it has nothing"),
        ({"epoch": 3, "iter": 5, "optimizers": []}, "state of an optimizer.* net_g_"),
        ({"state": {}, "param_groups": []}, "state of an optimizer.* net_g_"),
        ({"params": {"a": torch.zeros(2), "n": 3}}, r"no tensors among its weights: n \(int\)"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, r"not dense floating-point: a \(int64\)"),
        ({"a": torch.eye(2).to_sparse()}, r"not dense floating-point: a \(float32\)"),
        ({"params": {}}, "not a DRSformer"),
    ],
)
def test_contents_that_are_no_weights(tmp_path, content, message):
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_weights(path)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_without_a_shape_is_named(tmp_path):
    nested = torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])
    torch.save({"params": {"a": nested}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"not dense floating-point: a \(float32\)"):
        load_weights(tmp_path / "x.pth")


def test_nan_weights_are_refused(tmp_path, state):
    state["output.weight"][0, 0, 0, 0] = float("nan")
    path = tmp_path / "x.pth"
    torch.save({"params": state}, path)
    with pytest.raises(UserError, match=r"NaN or infinite values \(in float32\) in output\.weight"):
        load_weights(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x07\x12\x07pytorch\x1a\x052.0.0" + bytes(300),
        b"\x0a\x12drsformer/variables" + bytes(range(256)),
    ],
    ids=["onnx", "tensorflow"],
)
def test_another_kind_of_file_is_refused(tmp_path, refused, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    refused(path, "truncated, damaged or not a PyTorch weight file")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_is_refused(tmp_path, state, refused, zipped):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {"params": state, "extra": Touch(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"Python object \((posix|nt)\.system\)")
    assert not trace.exists()


def test_a_restormer_is_refused(tmp_path, state, refused):
    path = tmp_path / "restormer.pth"
    torch.save({"params": {n: t for n, t in state.items() if ".attn.attn" not in n}}, path)
    refused(path, r"not a DRSformer.*looks like a Restormer")


def test_tensors_that_repeat_what_is_stored_cannot_grow(tmp_path, state, refused):
    # One number on the disk, terabytes in memory.
    path = tmp_path / "x.pth"
    one = torch.zeros(1)
    torch.save(
        {n: one.expand([10**6 if s > 7 else s for s in t.shape]) for n, t in state.items()}, path
    )
    assert path.stat().st_size < 10**6
    refused(path, "its tensors are larger than the file")


def test_a_compressed_archive_is_refused(tmp_path, state, refused):
    good, path = tmp_path / "good.pth", tmp_path / "packed.pth"
    torch.save({"params": state}, good)
    with (
        zipfile.ZipFile(good) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    refused(path, "is a compressed archive")


@pytest.mark.parametrize("empty", ["one", "all"])
def test_empty_tensors_are_refused(tmp_path, state, refused, empty):
    path = tmp_path / "x.pth"
    names = state if empty == "all" else ["output.weight"]
    torch.save({"params": {**state, **{name: torch.zeros(0) for name in names}}}, path)
    refused(path, r"output\.weight \(0,\) should be|wrong shape")


def test_a_float64_value_beyond_float32_is_refused(tmp_path, state, refused):
    path = tmp_path / "x.pth"
    torch.save(
        {"params": {**state, "output.weight": state["output.weight"].double() * 1e300}}, path
    )
    refused(path, r"infinite values \(in float32\) in output\.weight")


@pytest.mark.parametrize("name", ["evil\nname", "x" * 10_000])
def test_strange_names_stay_on_one_short_line(tmp_path, state, refused, name):
    path = tmp_path / "x.pth"
    torch.save({"params": {**state, name: torch.zeros(2)}}, path)
    refused(path, "1 unknown: .{1,170}$")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, state, refused, monkeypatch):
    path = tmp_path / "x.pth"
    torch.save({"params": state}, path)

    def deny(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    # The user that runs the tests may be one to whom everything is permitted.
    monkeypatch.setattr(torch, "load", deny)
    refused(path, "cannot be read: Permission denied")


def test_without_pytorch_the_extra_is_named(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        pytorch_file.importlib.util,
        "find_spec",
        lambda name: None if name == "torch" else find_spec(name),
    )
    with pytest.raises(UserError, match=r"reading .*x\.pth needs PyTorch.*drsformer_jax\[torch\]"):
        pytorch_file.read_pytorch(tmp_path / "x.pth")
    with pytest.raises(UserError, match="writing"):
        pytorch_file.write_pytorch(tmp_path / "x.pth", {})
    assert list(tmp_path.iterdir()) == []
