"""The PyTorch network of a comparison: our own module or a user's class.

It imports PyTorch: import it late.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from drsformer_jax.errors import UserError, in_one_line, listing
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.torch_drsformer import network
from drsformer_jax.paths import likelier


def load_class(reference: str) -> Callable[..., nn.Module]:
    """The class that FILE.py:CLASS names; the file is executed, as a script would be.

    Raises:
      UserError: there is no such file or class, or the file cannot be imported.
    """
    file, separator, name = reference.rpartition(":")
    if not separator or not name.isidentifier():
        raise UserError(f"--reference {reference}: give a Python file and a class, FILE.py:CLASS")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"--reference: {file}: no such file{likelier(path)}")
    spec = importlib.util.spec_from_file_location("drsformer_parity_reference", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--reference: {file} is not a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    with _importable(path.absolute().parent):
        try:
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        except Exception as error:
            raise UserError(
                f"--reference: {file} cannot be imported: {in_one_line(error)}"
            ) from error
    found = getattr(module, name, None)
    if not callable(found):
        classes = [key for key, value in vars(module).items() if _is_defined_in(value, module)]
        raise UserError(
            f"--reference: {file} has no class {name}; it has {listing(classes) or 'none'}"
        )
    return found


def _is_defined_in(value: Any, module: Any) -> bool:
    is_network = inspect.isclass(value) and issubclass(value, nn.Module)
    return is_network and value.__module__ == module.__name__


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets the file import its neighbours, as it could if it were run as a script."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def build_reference(
    config: DRSformerConfig, tensors: Mapping[str, np.ndarray], reference: str | None = None
) -> nn.Module:
    """The reference network with these weights, in evaluation mode.

    Args:
      config: the architecture; a user's class gets those of it that its constructor names, as the
        authors' does (inp_channels, out_channels, dim, num_blocks, heads, ffn_expansion_factor,
        bias, LayerNorm_type).
      tensors: by PyTorch's names.
      reference: FILE.py:CLASS, or None for our own module.

    Raises:
      UserError: the class cannot be found or built, or its tensors are not those of the weights.
    """
    if reference is None:
        module: nn.Module = network(config)
    else:
        module = _construct(load_class(reference), config, reference)
    _load(module, tensors, reference or "the reference")
    return module.eval()


def _construct(cls: Callable[..., nn.Module], config: DRSformerConfig, reference: str) -> nn.Module:
    options = {
        "inp_channels": config.in_channels,
        "out_channels": config.out_channels,
        "dim": config.dim,
        "num_blocks": list(config.num_blocks),
        "heads": list(config.heads),
        "ffn_expansion_factor": config.ffn_expansion_factor,
        "bias": config.bias,
        "LayerNorm_type": config.layer_norm_type,
        "use_mefc": config.use_mefc,
    }
    known = inspect.signature(cls).parameters
    try:
        module = cls(**{name: value for name, value in options.items() if name in known})
    except Exception as error:
        raise UserError(f"--reference {reference} cannot be built: {in_one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"--reference {reference} is not a torch.nn.Module")
    return module


def _load(module: nn.Module, tensors: Mapping[str, np.ndarray], reference: str) -> None:
    """load_state_dict(strict=True), with all that does not fit in one line."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    groups = {
        "it lacks": [name for name in tensors if name not in shapes],
        "the weights lack": [name for name in shapes if name not in tensors],
        "other shapes": [
            f"{name} {shapes[name]}, weights {array.shape}"
            for name, array in tensors.items()
            if name in shapes and shapes[name] != array.shape
        ],
    }
    parts = [f"{kind} {listing(names)}" for kind, names in groups.items() if names]
    if parts:
        raise UserError(f"{reference} is not the network of the weights: {'; '.join(parts)}")
    module.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in tensors.items()})
