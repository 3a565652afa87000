"""PyTorch weight files: the authors' `.pth`, read and written.

Reading unpickles nothing but tensors and plain containers (`weights_only`): a file from the
network cannot run code. PyTorch itself is optional and imported when a file is at hand.
"""

from __future__ import annotations

import importlib.util
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.checkpoints.names import listing
from drsformer_jax.checkpoints.states import StoredTensor, precision_note, strip_prefix
from drsformer_jax.errors import UserError, missing_extra
from drsformer_jax.files import atomic_path

# In order of preference. `params` comes first even where an average (`params_ema`) lies beside
# it, because it is what the authors' test program loads: the same file, the same picture.
CONTAINERS = ("params", "params_ema", "state_dict")


def require_torch(purpose: str) -> None:
    """Raises the error that names the extra to install if PyTorch is not there."""
    if importlib.util.find_spec("torch") is None:
        raise missing_extra("PyTorch", "torch", purpose)


def read_pytorch(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a `.pth` file by name, yet to be read, and what is to be said of them.

    The weights are looked for under `params`, `params_ema`, `state_dict` (in this order) and at
    the top; `module.` in front of names is dropped. The second value has `source`, `container`
    and, where something was converted or left aside, `notes`.

    Raises:
      UserError: no PyTorch; the file is damaged, holds Python objects or no weights.
    """
    require_torch(f"reading {path}")
    container, content, notes = _select(load_file(path), path)
    tensors = strip_prefix(stored_tensors(content, path), str(path))
    precision = precision_note(tensor.precision for tensor in tensors.values())
    metadata = {"source": path.name, "container": container}
    notes = [*notes, precision] if precision else notes
    if notes:
        metadata["notes"] = "; ".join(notes)
    return tensors, metadata


def write_pytorch(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes {"params": state_dict}, the form that the authors' program loads.

    The arrays may be views: `torch.save` wants all its tensors at once, and this makes the one
    contiguous copy of each.

    Raises:
      UserError: no PyTorch.
    """
    require_torch(f"writing {path}")
    import torch

    tensors = {name: torch.from_numpy(np.array(a, order="C")) for name, a in state.items()}
    # Into Python's file, whose errors say what the system said.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"params": tensors}, file)


def load_file(path: Path) -> Any:
    """The content of a file that `torch.save` wrote: tensors (on the CPU) in plain containers.

    Tensors may be views of the mapped file, to be copied before it changes.

    Raises:
      UserError: the file is damaged, cannot be read, or holds Python objects.
    """
    import torch

    # Files from before PyTorch 1.6 are no zip archives and cannot be mapped into memory.
    mappable = zipfile.is_zipfile(path)
    if mappable:
        _check_uncompressed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise _unreadable(path, error) from error
        raise UserError(
            f"{path} holds a Python object ({found[1]}), and loading such can run code: refused; "
            "save the tensors alone, as torch.save({'params': model.state_dict()}, path) does"
        ) from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        # PyTorch has no error of its own for bad files: KeyError, EOFError, RuntimeError, ...
        raise _unreadable(path, error) from error


def _check_uncompressed(path: Path) -> None:
    """Refuses an archive that something has packed again: mapped, its bytes are not the values."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    if packed:
        raise UserError(
            f"{path} is a compressed archive, which PyTorch does not write: save the weights again "
            "with torch.save"
        )


def _unreadable(path: Path, error: Exception) -> UserError:
    # PyTorch's own words run over many lines and recommend unsafe loading: not passed on.
    return UserError(
        f"{path} is truncated, damaged or not a PyTorch weight file ({type(error).__name__} "
        "while reading it)"
    )


def _select(content: Any, path: Path) -> tuple[str, Mapping[str, Any], list[str]]:
    """(container, tensors by name, notes) of what a file holds."""
    import torch

    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name")
    found = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
    notes = []
    if found:
        container, tensors = found[0], content[found[0]]
        if len(found) > 1:
            notes.append(f"used {container}; the file also has {' and '.join(found[1:])}")
    elif any(isinstance(value, torch.Tensor) for value in content.values()):
        container, tensors = "bare", content
    elif "optimizers" in content or "param_groups" in content:
        raise UserError(
            f"{path} is the state of an optimizer, without weights: give the network's own file, "
            "net_g_*.pth"
        )
    else:
        keys = listing([str(key) for key in content]) or "nothing"
        raise UserError(f"{path} holds no weights under {', '.join(CONTAINERS)}: it has {keys}")
    odd = [
        f"{name} ({type(value).__name__})"
        for name, value in tensors.items()
        if not isinstance(value, torch.Tensor) or not isinstance(name, str)
    ]
    if odd:
        raise UserError(f"{path} has things that are no tensors among its weights: {listing(odd)}")
    return container, tensors, notes


def stored_tensors(state: Mapping[str, Any], path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, to be read one by one."""
    import torch

    odd = [
        f"{name} ({_precision(tensor)})"
        for name, tensor in state.items()
        if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point()
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


def _precision(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
