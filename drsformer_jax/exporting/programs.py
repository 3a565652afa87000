"""Writing exported networks: a program and its weights in one file, for any size or one."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

import drsformer_jax
from drsformer_jax.checkpoints.fingerprint import fingerprint
from drsformer_jax.checkpoints.names import torch_views
from drsformer_jax.checkpoints.pytorch_file import require_torch
from drsformer_jax.checkpoints.weights import Weights
from drsformer_jax.errors import missing_extra
from drsformer_jax.files import write_json
from drsformer_jax.inference.exported import FORMAT, description_of
from drsformer_jax.models.drsformer import SIZE_MULTIPLE

# Height and width; None: any multiples of 8.
Size = tuple[int, int] | None

PADDING = (
    "Height and width are multiples of 8: pad at the bottom and at the right by reflection "
    "(without repeating the edge), and cut the result to the size of the image."
)
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# A size that is none of its own: what is traced for any size must not be a special case.
_TRACED = (48, 64)


def write_stablehlo(path: Path, weights: Weights, size: Size) -> None:
    """The file of `jax.export`: a function of float32 1 H W C in [0, 1] to the same, not clamped.

    What is known of it goes into a file beside it (`write_description`).
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    from drsformer_jax.models.drsformer import restore
    from drsformer_jax.models.repeated import blocks_apart

    config = weights.config
    params = blocks_apart(config, weights.params)
    sides = size or export.symbolic_shape(f"{SIZE_MULTIPLE}*h, {SIZE_MULTIPLE}*w")
    image = jax.ShapeDtypeStruct((1, *sides, config.in_channels), jnp.float32)
    program = export.export(
        jax.jit(functools.partial(restore, config, params)), platforms=PLATFORMS
    )(image)
    path.write_bytes(program.serialize())


def write_onnx(path: Path, weights: Weights, size: Size) -> None:
    """ONNX of the PyTorch module: "rainy", float32 1 C H W in [0, 1], to "restored", not clamped.

    Raises:
      UserError: PyTorch, onnx or onnxscript is not installed.
    """
    require_torch(f"writing {path}")
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "onnx", f"writing {path}")
    import onnx
    import torch

    from drsformer_jax.parity.torch_reference import build_reference

    views = torch_views(weights.params, weights.config)
    module = build_reference(weights.config, {name: np.asarray(x) for name, x in views.items()})
    sides = {
        axis: SIZE_MULTIPLE * torch.export.Dim(name, min=1, max=1 << 16)
        for axis, name in ((2, "h"), (3, "w"))
    }
    image = torch.zeros(1, weights.config.in_channels, *(size or _TRACED))
    with _quietly():
        program = torch.onnx.export(
            module,
            (image,),
            dynamo=True,
            verbose=False,
            input_names=["rainy"],
            output_names=["restored"],
            dynamic_shapes=None if size else (sides,),
        )
        assert program is not None  # it is where `dynamo` is asked for
        model = program.model_proto
    onnx.helper.set_model_props(model, described(weights, size))
    onnx.save(model, path)


def described(weights: Weights, size: Size) -> dict[str, str]:
    """What travels with an exported network: strings by name."""
    sides = "dynamic" if size is None else "x".join(map(str, size))
    packages = {name: version(name) for name in ("jax", "numpy")}
    return {
        **weights.metadata,
        "format": FORMAT,
        "architecture": json.dumps(weights.config.architecture()),
        "fingerprint": fingerprint(weights.params),
        "size": sides,
        "values": "float32, RGB in [0, 1]; clamp the result to [0, 1]",
        "padding": PADDING,
        "versions": json.dumps({"drsformer_jax": drsformer_jax.__version__, **packages}),
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what PyTorch's exporter says of packages that are not needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


WRITERS = {".stablehlo": write_stablehlo, ".onnx": write_onnx}


def write_description(path: Path, digest: str, weights: Weights, size: Size) -> None:
    """Writes the file beside a StableHLO program; `digest`: the program's SHA-256."""
    write_json(description_of(path), {**described(weights, size), "sha256": digest})
