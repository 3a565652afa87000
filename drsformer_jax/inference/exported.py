"""Networks that `drsformer export` wrote, run in the place of ours."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.checkpoints.contents import EXPORTED
from drsformer_jax.checkpoints.infer import config_from
from drsformer_jax.errors import UserError, in_one_line, missing_extra
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.paths import nothing_at

FORMAT = "drsformer export"


@dataclasses.dataclass(frozen=True)
class Exported:
    """A program that is a network.

    Attributes:
      config: what network it is.
      restore: of (anything, float32 1 H W C) to the same shape, not clamped.
      is_traceable: whether `restore` is one of JAX, to be compiled.
      metadata: what is known of it, strings by name.
    """

    config: DRSformerConfig
    restore: Callable[[Any, Any], Any]
    is_traceable: bool
    metadata: Mapping[str, str]


def is_exported(weights: object) -> bool:
    """Whether the name of weights is that of an exported network."""
    return Path(str(weights)).suffix.lower() in EXPORTED


def description_of(path: Path) -> Path:
    """The file beside a StableHLO program that says what it is."""
    return path.with_name(f"{path.name}.json")


def open_exported(path: Path) -> Exported:
    """Reads a program. It is code: run only those of people whom you trust.

    Raises:
      UserError: it is missing, damaged or none of ours, what says what it is (beside it) is missing
        or of another file, or onnxruntime is not installed.
    """
    if not path.is_file():
        raise nothing_at(path, "file")
    return _open_onnx(path) if path.suffix.lower() == ".onnx" else _open_stablehlo(path)


def _open_stablehlo(path: Path) -> Exported:
    from jax import export

    content, beside = path.read_bytes(), description_of(path)
    try:
        metadata = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: {beside.name} beside it says what it is, and cannot be read: copy both files"
        ) from error
    config = _config(path, metadata)
    if metadata.get("sha256") != hashlib.sha256(content).hexdigest():
        raise UserError(f"{path}: is not the file that {beside.name} is about: copy both anew")
    try:
        program = export.deserialize(bytearray(content))
    except Exception as error:  # whatever the reader of its format raises
        raise UserError(f"{path}: cannot be read ({in_one_line(error)})") from error
    check = _size_check(path, metadata)

    def restore(_: Any, image: Any) -> Any:
        check(image.shape[1:3])
        return program.call(image)

    return Exported(config, restore, True, metadata)


def _open_onnx(path: Path) -> Exported:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", "onnx", f"running {path}") from error
    # In the order in which onnxruntime prefers them; TensorRT would build for minutes first.
    providers = [name for name in onnxruntime.get_available_providers() if "Tensorrt" not in name]
    try:
        session = onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:
        raise UserError(f"{path}: onnxruntime cannot read it ({in_one_line(error)})") from error
    metadata = session.get_modelmeta().custom_metadata_map
    config, check = _config(path, metadata), _size_check(path, metadata)

    def restore(_: Any, image: np.ndarray) -> np.ndarray:
        check(image.shape[1:3])
        (restored,) = session.run(None, {"rainy": image.transpose(0, 3, 1, 2)})
        return np.asarray(restored).transpose(0, 2, 3, 1)

    return Exported(config, restore, False, metadata)


def _config(path: Path, metadata: Any) -> DRSformerConfig:
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{path}: was not written by `drsformer export`")
    try:
        return config_from(json.loads(metadata["architecture"]), str(path))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: does not say what network it is") from error


def _size_check(path: Path, metadata: Mapping[str, str]) -> Callable[[tuple[int, int]], None]:
    """Refuses images of another size than the only one that a program takes."""
    size = metadata.get("size", "dynamic")

    def check(found: tuple[int, int]) -> None:
        if size not in ("dynamic", f"{found[0]}x{found[1]}"):
            raise UserError(
                f"{path}: takes {size} pixels (height x width) only, not {found[0]}x{found[1]}: "
                "export it without --size"
            )

    return check
