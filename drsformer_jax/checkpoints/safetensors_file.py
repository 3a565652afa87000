"""Weights as `.safetensors`: the form in which we ship them.

The tensors have PyTorch's names and layouts, so that both frameworks can use the file. The header
has {"format": "drsformer", "architecture": JSON} and free strings (recipe, score, source).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes NumPy, and with it safetensors, know bfloat16
import numpy as np

from drsformer_jax.checkpoints.foreign_names import own_names
from drsformer_jax.checkpoints.tensors import StoredTensor, StoredWeights, precision_note
from drsformer_jax.errors import UserError, listing
from drsformer_jax.files import atomic_path
from drsformer_jax.paths import printable

FORMAT = "drsformer"
_RESERVED = ("format", "architecture")
_PRECISIONS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_safetensors(path: Path) -> StoredWeights:
    """The tensors, the architecture (None in a file that is not ours) and free strings.

    The file stays open for the tensors until they are dropped.

    Raises:
      UserError: the file is damaged, or its header is.
    """
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="np")
        header = dict(file.metadata() or {})
        stored = {name: _stored(file, name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(
            f"{path} is truncated, damaged or not a safetensors file ({error})"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    architecture = _architecture(header, path)
    stored, renaming = own_names(stored, str(path))
    known = _PRECISIONS.values()
    odd = [f"{name} ({t.precision})" for name, t in stored.items() if t.precision not in known]
    if odd:
        raise UserError(f"{path} has tensors that are not floating-point: {listing(odd)}")
    # A foreign "format" says which framework wrote the file: of no use once it is converted.
    metadata = {key: value for key, value in header.items() if key not in _RESERVED}
    note = precision_note(tensor.precision for tensor in stored.values())
    if note:
        metadata["notes"] = "; ".join([*filter(None, [metadata.get("notes")]), note])
    return StoredWeights(stored, metadata, tuple(renaming), architecture)


def _stored(file: Any, name: str) -> StoredTensor:
    """One tensor of an open file, of which the header has been read and nothing else."""
    info = file.get_slice(name)
    kind = info.get_dtype()
    return StoredTensor(
        tuple(info.get_shape()), _PRECISIONS.get(kind, kind), lambda: file.get_tensor(name)
    )


def write_safetensors(
    path: Path,
    state: Mapping[str, np.ndarray],
    architecture: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    """Writes tensors with PyTorch's names and layouts, the architecture and free strings.

    The arrays may be views: the library wants all tensors at once, and contiguous.
    """
    from safetensors.numpy import save_file

    header = {
        **{key: printable(str(value)) for key, value in metadata.items() if key not in _RESERVED},
        "format": FORMAT,
        "architecture": json.dumps(architecture),
    }
    tensors = {name: np.asarray(array, order="C") for name, array in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def _architecture(header: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    if header.get("format") != FORMAT:
        return None
    try:
        architecture = json.loads(header["architecture"])
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path} has no readable architecture in its header") from error
    if not isinstance(architecture, dict):
        raise UserError(f"{path} has no readable architecture in its header")
    return architecture
