"""The PyTorch side of a comparison: our own module or a user's, run so that every value is kept.

It imports PyTorch: import it late.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from drsformer_jax.checkpoints.names import listing
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.recording import (
    BRANCHES,
    RESTORED,
    Probe,
    Recording,
    decisions_of,
    loss_weights,
    probes_of,
)
from drsformer_jax.parity.torch_drsformer import network


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
        raise UserError(f"--reference: {file}: no such file")
    spec = importlib.util.spec_from_file_location("drsformer_parity_reference", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--reference: {file} is not a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    with _importable(path.absolute().parent):
        try:
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        except Exception as error:
            raise UserError(f"--reference: {file} cannot be imported: {_told(error)}") from error
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


def _told(error: BaseException) -> str:
    """An exception of the user's code in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


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
        raise UserError(f"--reference {reference} cannot be built: {_told(error)}") from error
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


class _TopKWatch(TorchFunctionMode):
    """Notes what every `topk` inside an attention module keeps.

    So a program's choice can be read without knowing how it is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside: str | None = None
        self.kept: dict[str, list[Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.inside is not None and func in (torch.topk, Tensor.topk):
            source = args[0] if args else kwargs["input"]
            axis = args[2] if len(args) > 2 else kwargs.get("dim", -1)
            dropped = torch.zeros(source.shape, dtype=torch.bool)
            mask = dropped.scatter(axis, result.indices, True)
            self.kept.setdefault(self.inside, []).append(mask)
        return result


def record(
    module: nn.Module, config: DRSformerConfig, image: np.ndarray, *, gradients: bool = False
) -> Recording:
    """Runs the module on an image and keeps the value at every probe.

    Args:
      module: a network with the tensor names of the authors' state_dict; it is left in the dtype
        of the image.
      image: float32 or float64, B C H W.
      gradients: also take the gradient of sum(restored * `loss_weights`) for every parameter.

    Returns:
      Values, those of modules that the program does not call missing; top-k choices where an
      attention module calls `torch.topk` four times on a tensor B heads c c; with gradients the
      signs in front of ReLUs.

    Raises:
      UserError: the module fails on the image, or returns something else than an image.
    """
    source = torch.from_numpy(image)
    module.to(source.dtype)
    recording = Recording()
    watch = _TopKWatch()
    with contextlib.ExitStack() as hooks:
        for probe in probes_of(config):
            for hook in _value_hooks(module, probe, recording.outputs, watch):
                hooks.callback(hook.remove)
        if gradients:
            for hook in _sign_hooks(module, config, recording.active):
                hooks.callback(hook.remove)
        with torch.no_grad(), watch:
            restored = _run(module, source)
    recording.outputs[RESTORED] = restored.numpy()
    for name, kept in watch.kept.items():
        if _shows_choice(kept):
            recording.chosen[name] = torch.stack(kept).numpy()
    if gradients:
        recording.gradients = _gradients(module, config, source)
    return recording


def _shows_choice(kept: list[Tensor]) -> bool:
    """Whether there is a mask B heads c c for each branch."""
    alike = len({tuple(mask.shape) for mask in kept}) == 1
    return len(kept) == BRANCHES and alike and kept[0].dim() == 4


def _value_hooks(
    module: nn.Module, probe: Probe, outputs: dict[str, np.ndarray], watch: _TopKWatch
) -> Iterator[RemovableHandle]:
    """Hooks that put one probe's value into `outputs`."""

    def keep(value: Any) -> None:
        if isinstance(value, Tensor):
            # A copy: what comes next may work in place, as PyTorch programs' ReLUs often do.
            outputs[probe.name] = value.detach().cpu().clone().numpy()

    if probe.name == RESTORED:
        return
    part = module.get_submodule(probe.name)
    if probe.kind == "MEFC step":
        # What is compared is the state after the step. It is what the next one is given, and
        # after the last one what the body returns.
        body, _, step = probe.name.rpartition("._ops.")
        steps = module.get_submodule(f"{body}._ops")
        if int(step) + 1 < len(list(steps.children())):
            following = module.get_submodule(f"{body}._ops.{int(step) + 1}")
            yield following.register_forward_pre_hook(lambda _, inputs: keep(inputs[0]))
        else:
            body_module = module.get_submodule(body)
            yield body_module.register_forward_hook(lambda _, inputs, output: keep(output))
        return
    if probe.kind == "TKSA":

        def enter(*_: Any) -> None:
            watch.inside = probe.name

        def leave(*_: Any) -> None:
            watch.inside = None

        yield part.register_forward_pre_hook(enter)
        yield part.register_forward_hook(leave)
    yield part.register_forward_hook(lambda _, inputs, output: keep(output))


def _sign_hooks(
    module: nn.Module, config: DRSformerConfig, active: dict[str, np.ndarray]
) -> Iterator[RemovableHandle]:
    """Hooks that keep where the value in front of each ReLU is positive."""

    def keep(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: Any, output: Tensor) -> None:
            active[name] = (output > 0).numpy()

        return hook

    for decision in decisions_of(config):
        if decision.kind == "ReLU":
            part = module.get_submodule(decision.name)
            yield part.register_forward_hook(keep(decision.name))


def _run(module: nn.Module, source: Tensor) -> Tensor:
    try:
        restored = module(source)
    except Exception as error:
        raise UserError(f"the reference fails on the image: {_told(error)}") from error
    if not isinstance(restored, Tensor) or restored.shape != source.shape:
        what = tuple(restored.shape) if isinstance(restored, Tensor) else type(restored).__name__
        raise UserError(
            f"the reference does not return an image of shape {tuple(source.shape)} but {what}"
        )
    return restored


def _gradients(module: nn.Module, config: DRSformerConfig, source: Tensor) -> dict[str, np.ndarray]:
    module.zero_grad(set_to_none=True)
    weights = torch.from_numpy(loss_weights(tuple(source.shape))).to(source.dtype)
    with _recomputed_blocks(module, config):
        (_run(module, source) * weights).sum().backward()
    gradients = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).numpy().copy()
        for name, p in module.named_parameters()
    }
    module.zero_grad(set_to_none=True)
    return gradients


@contextlib.contextmanager
def _recomputed_blocks(module: nn.Module, config: DRSformerConfig) -> Iterator[None]:
    """Runs every Transformer block and MEFC step again in the backward pass: bounded memory.

    The values are the same to the bit.
    """
    names = {probe.name.rpartition(".")[0] for probe in probes_of(config) if probe.kind == "TKSA"}
    names |= {probe.name for probe in probes_of(config) if probe.kind == "MEFC step"}
    parts = [module.get_submodule(name) for name in names]
    for part in parts:
        part.forward = functools.partial(checkpoint, part.forward, use_reentrant=False)
    try:
        yield
    finally:
        for part in parts:
            del part.forward  # the class's own shows again
