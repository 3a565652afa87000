"""What a file of weights is, told by its content: suffixes are what people make of them.

What a download leaves behind in the place of weights is named as what it is.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Literal

from drsformer_jax.errors import UserError, listing

Kind = Literal["pytorch", "safetensors"]

# Suffixes of programs that are networks, which `drsformer export` writes: no weights come out.
EXPORTED = (".stablehlo", ".onnx")

_HEAD_BYTES = 4096

# safetensors refuses a longer header.
_HEADER_AT_MOST = 100_000_000

_POINTERS = {
    # The second is what Git LFS was called before its first version.
    b"version https://git-lfs": ("Git LFS", "git lfs pull"),
    b"version https://hawser": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}
_PAGE = re.compile(
    rb"\s*<(!doctype|html|head|body|title|meta|script|\?xml|!--|error)", re.IGNORECASE
)
_TITLE = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)

_PACKED = "packed: unpack it, and name the file with the weights"
_OTHERS = {
    b"\x1f\x8b": f"gzip data, {_PACKED}",
    b"BZh": f"bzip2 data, {_PACKED}",
    b"\xfd7zXZ": f"xz data, {_PACKED}",
    b"\x28\xb5\x2f\xfd": f"zstd data, {_PACKED}",
    b"7z\xbc\xaf": f"a 7z archive, {_PACKED}",
    b"Rar!": f"a RAR archive, {_PACKED}",
    b"\x89HDF": "an HDF5 file (Keras, MATLAB), not weights of PyTorch",
    b"\x93NUMPY": "a NumPy array, not weights by name",
    b"GGUF": "a GGUF file, not weights of PyTorch",
    b"\x89PNG": "a picture (PNG), not weights",
    b"\xff\xd8\xff": "a picture (JPEG), not weights",
    b"%PDF": "a PDF document, not weights",
}
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_TAR = slice(257, 262), b"ustar"


def kind_of(path: Path) -> Kind | None:
    """Which of our readers a file is for; None where its first bytes say nothing.

    Raises:
      UserError: it cannot be read, is empty, or is known to be something else than weights.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if not head:
        raise UserError(f"{path} is empty: get it again, its download or its writing has failed")
    # The header's length, whose first byte may be any, and the header.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _HEADER_AT_MOST:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return "pytorch"
    # A pickle, which PyTorch wrote without an archive around it before version 1.6.
    if head[:2] in _PICKLES:
        return "pytorch"
    found = _pointer_or_page(head, size)
    found = found or next((text for magic, text in _OTHERS.items() if head.startswith(magic)), None)
    if found is None and head[_TAR[0]] == _TAR[1]:
        found = f"a tar archive, {_PACKED}"
    found = found or _plain_text(head)
    if found is None:
        return None
    raise UserError(f"{path} is {found}")


def _pointer_or_page(head: bytes, size: int) -> str | None:
    """What stands in the place of a file that has not been fetched; None if it is neither."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", "ignore").encode()
    head = head.removeprefix(b"\xef\xbb\xbf")
    for beginning, (program, command) in _POINTERS.items():
        if head.startswith(beginning):
            return (
                f"a {program} pointer of {size} bytes, not the weights it stands for: fetch them "
                f"with `{command}`, or download the file itself"
            )
    if not _PAGE.match(head):
        return None
    title = _TITLE.search(head)
    words = " ".join(title[1].decode("utf-8", "replace").split()) if title else ""
    titled = f' titled "{listing([words])}"' if words else ""
    return (
        f"a web page{titled}, not weights: open the address in a browser, and download the file "
        "itself"
    )


def _plain_text(head: bytes) -> str | None:
    # The last character may be cut.
    text = head.decode("utf-8", "replace").rstrip("\ufffd")
    if not all(letter.isprintable() or letter.isspace() for letter in text) or "\ufffd" in text:
        return None
    line = " ".join(text.split())
    begins = f" that begins with {line[:60]!r}" if line else ""
    return f"text{begins}, not weights: download or export the file itself"


def _check_archive(path: Path) -> None:
    """Refuses zip archives without the one pickle of `torch.save`, and repacked ones.

    Mapped into memory, bytes that were compressed are not the values. A damaged archive passes:
    its reader finds out.

    Raises:
      UserError: it is another kind of archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile):
        return
    names = [entry.filename for entry in entries]
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" not in last:
        if names and all(name.endswith(".npy") for name in names):
            raise UserError(f"{path} is a NumPy archive (.npz), not weights of PyTorch")
        held = listing(names[:3]) or "nothing"
        raise UserError(
            f"{path} is a zip archive without PyTorch's data (it holds {held}): unpack it, and "
            "name the file with the weights"
        )
    if "constants.pkl" in last:
        raise UserError(
            f"{path} is a TorchScript program, which holds code: save its tensors alone, as "
            "torch.save({'params': model.state_dict()}, path) does"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(
            f"{path} is a compressed archive, which PyTorch does not write: save the weights again "
            "with torch.save"
        )
