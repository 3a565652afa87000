"""The PyTorch network of a comparison, run so that every module's value is kept.

It imports PyTorch: import it late.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from drsformer_jax.errors import UserError, in_one_line
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.recording import (
    BRANCHES,
    RESTORED,
    Place,
    Recording,
    decisions_of,
    loss_weights,
    probes_of,
)

# A second run agrees with the first, or with the third.
RUNS_AT_MOST = 5


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


def record(module: nn.Module, config: DRSformerConfig, image: np.ndarray) -> Recording:
    """Runs the module on an image and keeps the value at every probe.

    Args:
      module: a network with the tensor names of the authors' state_dict; it is left in the dtype
        of the image.
      image: float32 or float64, B C H W.

    Returns:
      Values, those of modules that the program does not call missing; top-k choices where an
      attention module calls `torch.topk` four times on a tensor B heads c c.

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
                hooks.enter_context(hook)
        with torch.no_grad(), watch:
            restored = _run(module, source)
    recording.outputs[RESTORED] = restored.numpy()
    for name, kept in watch.kept.items():
        if _shows_choice(kept):
            recording.chosen[name] = torch.stack(kept).numpy()
    return recording


def record_repeated(
    module: nn.Module, config: DRSformerConfig, image: np.ndarray
) -> tuple[Recording, str | None]:
    """Runs the module until two runs in a row agree to the bit; arguments as for `record`.

    PyTorch's first forward in a process may round otherwise than all later ones, and a near tie
    among attention logits makes a visible difference of that.

    Returns:
      The last run, and the name of the first value that the first run had otherwise, or None.

    Raises:
      UserError: as for `record`; or no two of `RUNS_AT_MOST` runs in a row agree.
    """
    runs: list[dict[str, bytes]] = []
    for _ in range(RUNS_AT_MOST):
        # One recording at a time: of a photograph it takes gigabytes.
        recording = record(module, config, image)
        runs.append(_digests(recording))
        if runs[-1] in runs[-2:-1]:
            return recording, _first_change(runs[0], runs[-1])
        del recording
    raise UserError(
        f"the reference does not repeat itself: in {RUNS_AT_MOST} runs no two in a row agreed, the "
        f"last two not from {_first_change(runs[-2], runs[-1])} on; take what is random out of it "
        "(dropout, noise), and compare again"
    )


def _digests(recording: Recording) -> dict[str, bytes]:
    """A checksum of each value's bits, and of each top-k choice's."""
    values = [*recording.outputs.items(), *recording.chosen.items()]
    found: dict[str, bytes] = {}
    for name, value in values:
        digest = hashlib.blake2b(np.ascontiguousarray(value).data).digest()
        found[name] = found.get(name, b"") + digest
    return found


def _first_change(first: dict[str, bytes], second: dict[str, bytes]) -> str | None:
    """The first name, in the order of the run, under which two runs differ."""
    return next((name for name in [*first, *second] if first.get(name) != second.get(name)), None)


def record_gradients(
    recording: Recording, module: nn.Module, config: DRSformerConfig, image: np.ndarray
) -> None:
    """Adds to a recording the gradient of every parameter, and the signs in front of ReLUs.

    The gradient is that of sum(restored * `loss_weights`); arguments as for `record`.
    """
    source = torch.from_numpy(image)
    module.to(source.dtype).zero_grad(set_to_none=True)
    weights = torch.from_numpy(loss_weights(image.shape)).to(source.dtype)
    with contextlib.ExitStack() as hooks:
        for decision in decisions_of(config):
            if decision.kind == "ReLU":
                keep = functools.partial(_keep_signs, recording.active, decision.name)
                part = module.get_submodule(decision.name)
                hooks.enter_context(part.register_forward_hook(keep))
        with _recomputed_blocks(module, config):
            (_run(module, source) * weights).sum().backward()
    recording.gradients = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).numpy().copy()
        for name, p in module.named_parameters()
    }
    module.zero_grad(set_to_none=True)


def _shows_choice(kept: list[Tensor]) -> bool:
    """Whether there is a mask B heads c c for each branch."""
    alike = len({tuple(mask.shape) for mask in kept}) == 1
    return len(kept) == BRANCHES and alike and kept[0].dim() == 4


def _value_hooks(
    module: nn.Module, probe: Place, outputs: dict[str, np.ndarray], watch: _TopKWatch
) -> Iterator[RemovableHandle]:
    """Hooks that put one probe's value into `outputs`."""

    def keep(value: Any = None) -> None:
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
            yield following.register_forward_pre_hook(lambda _, inputs: keep(*inputs[:1]))
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


def _keep_signs(
    active: dict[str, np.ndarray], name: str, part: nn.Module, inputs: Any, output: Any
) -> None:
    """A hook that keeps where the value in front of a ReLU is positive."""
    if isinstance(output, Tensor):
        active[name] = (output > 0).numpy()


def _run(module: nn.Module, source: Tensor) -> Tensor:
    try:
        restored = module(source)
    except Exception as error:
        raise UserError(f"the reference fails on the image: {in_one_line(error)}") from error
    if not isinstance(restored, Tensor) or restored.shape != source.shape:
        what = tuple(restored.shape) if isinstance(restored, Tensor) else type(restored).__name__
        raise UserError(
            f"the reference does not return an image of shape {tuple(source.shape)} but {what}"
        )
    return restored


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
