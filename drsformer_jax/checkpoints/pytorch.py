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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.checkpoints.names import listing
from drsformer_jax.checkpoints.states import precision_note, strip_prefix
from drsformer_jax.errors import UserError, missing_extra
from drsformer_jax.files import atomic_path

# In order of preference. `params` comes first even where an average (`params_ema`) lies beside
# it, because it is what the authors' test program loads: the same file, the same picture.
CONTAINERS = ("params", "params_ema", "state_dict")


def require_torch(purpose: str) -> None:
    """Raises the error that names the extra to install if PyTorch is not there."""
    if importlib.util.find_spec("torch") is None:
        raise missing_extra("PyTorch", "torch", purpose)


def read_pytorch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a `.pth` file by name, float32, and what is to be said of them.

    The weights are looked for under `params`, `params_ema`, `state_dict` (in this order) and at
    the top; `module.` in front of names is dropped. The second value has `source`, `container`
    and, where something was converted or left aside, `notes`.

    Raises:
      UserError: no PyTorch; the file is damaged, holds Python objects or no weights.
    """
    require_torch(f"reading {path}")
    container, content, notes = _select(_load(path), path)
    state = strip_prefix(content, str(path))
    arrays = _to_numpy(state, path)
    precision = precision_note(str(t.dtype).removeprefix("torch.") for t in state.values())
    metadata = {"source": path.name, "container": container}
    notes = [*notes, precision] if precision else notes
    if notes:
        metadata["notes"] = "; ".join(notes)
    return arrays, metadata


def write_pytorch(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes {"params": state_dict}, the form that the authors' program loads.

    Raises:
      UserError: no PyTorch.
    """
    require_torch(f"writing {path}")
    import torch

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    with atomic_path(path) as temporary:
        torch.save({"params": tensors}, temporary)


def _load(path: Path) -> Any:
    """The content of the file: tensors (on the CPU) in plain containers."""
    import torch

    # Files from before PyTorch 1.6 are no zip archives and cannot be mapped into memory.
    mappable = zipfile.is_zipfile(path)
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
    elif "optimizers" in content:
        raise UserError(
            f"{path} is a training state (optimizer and iteration) without weights: give the "
            "network's own file, net_g_*.pth"
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


def _to_numpy(state: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    """Float32 arrays; they may be views of the mapped file, to be copied before it changes."""
    import torch

    odd = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in state.items()
        if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point()
    ]
    if odd:
        raise UserError(f"{path} has tensors that are not dense floating-point: {listing(odd)}")
    return {name: tensor.detach().to(torch.float32).numpy() for name, tensor in state.items()}
