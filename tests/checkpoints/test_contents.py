"""Files that are not what their names say."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from drsformer_jax.checkpoints.contents import kind_of
from drsformer_jax.checkpoints.weights import load_weights
from drsformer_jax.cli.main import main
from drsformer_jax.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 134\n"
PAGE = b"<!DOCTYPE html><html><head><title>Quota\n exceeded</title></head></html>"


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("net_g.pth"))
    return buffer.getvalue()


def saved_array(save) -> bytes:
    buffer = io.BytesIO()
    save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.ckpt", "w"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: get it again"),
        (POINTER, "is a Git LFS pointer of 128 bytes, .* `git lfs pull`"),
        (POINTER.replace(b"\n", b"\r\n"), "is a Git LFS pointer"),
        (b"/annex/objects/MD5E-s1--0.pth\n", "is a git-annex pointer .* `git annex get`"),
        (PAGE, 'is a web page titled "Quota exceeded", not weights: .* download the file itself'),
        (b"\n\n  <HTML lang=en>\xe9", "is a web page, not weights"),
        ("\ufeff<html>".encode(), "is a web page"),
        (PAGE.decode().encode("utf-16"), 'is a web page titled "Quota exceeded"'),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
        (b"Entry not found", "is text that begins with 'Entry not found', not weights"),
        (b'{"error": "no access"}', "is text that begins with"),
        ("é".encode() * 4095, "is text that begins with"),
        (gzip.compress(b"x", mtime=0), "is gzip data, packed: unpack it"),
        (tarred(), "is a tar archive, packed: unpack it"),
        (zipped(models__net_pth=b"x"), r"is a zip archive .* \(it holds models/net.pth\): unpack"),
        (zipped(a__data_pkl=b"x", a__constants_pkl=b"x"), "is a TorchScript program"),
        (saved_array(np.savez), r"is a NumPy archive \(.npz\)"),
        (saved_array(np.save), "is a NumPy array"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x89PNG\r\n\x1a\n", r"is a picture \(PNG\)"),
    ],
)
def test_what_is_not_weights_is_named(tmp_path, content, message, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_weights(path)
    assert str(error.value).startswith(f"{path} is ")
    assert "\n" not in str(error.value)


def test_bytes_that_say_nothing_are_left_to_the_readers(tmp_path):
    path = tmp_path / "w"
    for content in (bytes(100), bytes(range(1, 256)), b"PK\x05\x06", b"\x80\x01"):
        path.write_bytes(content)
        assert kind_of(path) is None


def test_a_header_may_have_any_length(tmp_path):
    path = tmp_path / "w"
    # Its first two bytes are those of a pickle.
    path.write_bytes((0x0280).to_bytes(8, "little") + b"{" + b" " * 0x27F)
    assert kind_of(path) == "safetensors"


@pytest.mark.parametrize("content", [POINTER, PAGE])
@pytest.mark.parametrize("command", ["convert", "convert state", "derain", "parity"])
def test_every_command_names_it(tmp_path, monkeypatch, capsys, command, content):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    name = "x.state" if command == "convert state" else "x.ckpt"
    (tmp_path / name).write_bytes(content)
    arguments = {
        "convert": ["convert", name, "out.safetensors"],
        "convert state": ["convert", name, "run"],
        "derain": ["derain", "a.png", "-o", "out", "--weights", name],
        "parity": ["parity", "--weights", name],
    }[command]
    before = sorted(tmp_path.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"drsformer: error: {name} is a ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
