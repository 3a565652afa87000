"""PyTorch weight files: the authors' `.pth`, read and written.

Reading unpickles nothing but tensors, plain containers and NumPy's scalars (`weights_only`): a file
from the network cannot run code. PyTorch itself is optional and imported when a file is at hand.
"""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.checkpoints.contents import kind_of
from drsformer_jax.checkpoints.foreign_names import own_names, select_weights
from drsformer_jax.checkpoints.tensors import StoredTensor, StoredWeights, precision_note
from drsformer_jax.errors import UserError, listing, missing_extra
from drsformer_jax.files import atomic_path
from drsformer_jax.paths import printable

# What PyTorch's own message names for a NumPy scalar: the constructor, under its names in NumPy 1
# and 2, and the dtypes. Those of plain numbers and strings only.
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_SCALAR_DTYPES = "?bBhHiIlLqQefdgFDGSU"

# How an array is stored, by what a reader knows it.
_ARRAYS = re.compile(r"numpy\._?core\.multiarray\._reconstruct")


def require_torch(purpose: str) -> None:
    """Raises the error that names the extra to install if PyTorch is not there."""
    if importlib.util.find_spec("torch") is None:
        raise missing_extra("PyTorch", "torch", purpose)


def read_pytorch(path: Path) -> StoredWeights:
    """The tensors of a file that `torch.save` wrote.

    The weights are looked for as `select_weights` says, their names are brought to the network's
    own (`own_names`). The metadata has `source`, `container` and, where something was converted
    or left aside, `notes`.

    Raises:
      UserError: no PyTorch; the file is damaged, holds Python objects or no weights.
    """
    require_torch(f"reading {path}")
    container, content, choice = select_weights(load_file(path), path)
    state, renaming = own_names(content, str(path))
    tensors = stored_tensors(state, path)
    precision = precision_note(tensor.precision for tensor in tensors.values())
    metadata = {"source": path.name, "container": container}
    kept = [*choice, precision] if precision else choice
    if kept:
        metadata["notes"] = "; ".join(kept)
    return StoredWeights(tensors, metadata, (*choice, *renaming))


def write_pytorch(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes {"params": state_dict}, the form that the authors' program loads.

    The arrays may be views: `torch.save` wants all its tensors at once, and this makes the one
    contiguous copy of each.

    Raises:
      UserError: no PyTorch.
    """
    require_torch(f"writing {path}")
    import torch

    tensors = torch_tensors(state)
    # Into Python's file, whose errors say what the system said.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"params": tensors}, file)


def torch_tensors(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Contiguous copies, as PyTorch's."""
    import torch

    return {name: torch.from_numpy(np.array(a, order="C")) for name, a in state.items()}


def load_file(path: Path) -> Any:
    """The content of a file that `torch.save` wrote: tensors (on the CPU) in plain containers.

    Tensors may be views of the mapped file, to be copied before it changes. NumPy's scalars become
    Python's.

    Raises:
      UserError: the file is damaged, cannot be read, is of another kind or holds Python objects.
    """
    import torch

    if kind_of(path) == "safetensors":
        raise UserError(f"{path} is a safetensors file, not one that PyTorch's torch.save wrote")
    # Under this suffix PyTorch takes a name for another kind of file, but not an open file.
    misnamed = path.suffix == ".safetensors"
    # Files from before PyTorch 1.6 are no zip archives and cannot be mapped into memory.
    # Nor does PyTorch map a file whose name is no text.
    mappable = zipfile.is_zipfile(path) and not misnamed and printable(str(path)) == str(path)
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals(_scalar_globals()),
            path.open("rb") if misnamed else contextlib.nullcontext(path) as source,
        ):
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mappable)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL |<class ')([\w.]+)", str(error))
        if found is None:
            raise _unreadable(path, error) from error
        name = _ARRAYS.sub("numpy.ndarray", found[1])
        raise UserError(
            f"{path} holds a Python object ({name}), and loading such can run code: refused; "
            "save the tensors alone, as torch.save({'params': model.state_dict()}, path) does"
        ) from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        # PyTorch has no error of its own for bad files: KeyError, EOFError, RuntimeError, ...
        raise _unreadable(path, error) from error


def _scalar_globals() -> list[Any]:
    """What makes `torch.load` read NumPy's scalars: nothing that could run code."""
    dtypes = {type(np.dtype(code)) for code in _SCALAR_DTYPES}
    return [np.dtype, *dtypes, *((_scalar, name) for name in _SCALARS)]


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    """In the place of NumPy's constructor, which would take objects, too."""
    return np.frombuffer(data, dtype, count=1)[0].item()


def _unreadable(path: Path, error: Exception) -> UserError:
    # PyTorch's own words run over many lines and recommend unsafe loading: not passed on.
    return UserError(
        f"{path} is truncated, damaged or not a PyTorch weight file ({type(error).__name__} "
        "while reading it)"
    )


def stored_tensors(state: Mapping[str, Any], path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, to be read one by one."""
    import torch

    odd = [
        f"{name} ({_precision(tensor)})"
        for name, tensor in state.items()
        if not (_is_dense(tensor) and tensor.is_floating_point())
    ]
    if odd:
        raise UserError(f"{path} has tensors that are not dense floating-point: {listing(odd)}")
    # Tensors can share or repeat what is stored, and then be of any size in a file of no size.
    if sum(tensor.nbytes for tensor in state.values()) > path.stat().st_size:
        raise UserError(f"{path} is damaged: its tensors are larger than the file")

    def reader(tensor: Any) -> Callable[[], np.ndarray]:
        # NumPy does not know all of PyTorch's types: it is PyTorch that converts.
        return lambda: tensor.detach().to(torch.float32).numpy()

    return {
        name: StoredTensor(tuple(tensor.shape), _precision(tensor), reader(tensor))
        for name, tensor in state.items()
    }


def _is_dense(tensor: Any) -> bool:
    """Whether all values are there, side by side; of nested tensors not even the shape is known."""
    import torch

    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested


def _precision(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
