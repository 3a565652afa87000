"""PyTorch's programs, as `pairs.Worker` builds them: each called in a process of its own.

Nothing here imports JAX, so that the memory of such a process is PyTorch's alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inputs import SEED, rainy_image, training_pair
from benchmarks.pairs import Program
from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.parity import torch_drsformer
from drsformer_jax.parity.random_weights import random_tensors
from drsformer_jax.parity.torch_reference import build_reference
from drsformer_jax.parity.torch_training import adamw, update


class Variant(NamedTuple):
    """How the authors' network is executed."""

    memory_format: torch.memory_format = torch.contiguous_format
    is_compiled: bool = False
    dtype: torch.dtype = torch.float32  # of parameters and images


# The first is the authors' program as it is, the last is there to hold the others against.
VARIANTS = {
    "eager": Variant(),
    "channels_last": Variant(torch.channels_last),
    "compile": Variant(is_compiled=True),
    "compile_channels_last": Variant(torch.channels_last, is_compiled=True),
    "float64": Variant(dtype=torch.float64),
}


def forward_flops(preset: str, batch: int, size: int) -> int:
    """Floating-point operations of convolutions and matrix products, two a multiply-add.

    Counted by PyTorch as the reference program runs, on tensors without data.
    """
    with torch.device("meta"):
        module = torch_drsformer.network(PRESETS[preset])
        image = torch.empty(batch, module.patch_embed.proj.in_channels, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(image)
    return counter.get_total_flops()


def _choose_device(device: str, precision: str) -> str:
    """PyTorch's name of a device; float32 products are TF32 there unless `precision` is highest."""
    torch.backends.cuda.matmul.allow_tf32 = precision != "highest"
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    return {"gpu": "cuda"}.get(device, device)


def _reference(
    config: DRSformerConfig, device: str, variant: str
) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The authors' network with the random weights of all benchmarks, and how to put images in."""
    memory_format, _, dtype = VARIANTS[variant]
    # As in the authors' program. The reference for parity sums the squares in float64.
    torch_drsformer.normalize = lambda x: F.normalize(x, dim=-1)
    # Those of `random_weights`, which asks JAX for their shapes.
    fresh = torch_drsformer.network(config).named_parameters()
    shapes = ((name, tuple(parameter.shape)) for name, parameter in fresh)
    module = build_reference(config, random_tensors(shapes, SEED)).to(device, dtype)
    module.to(memory_format=memory_format)  # type: ignore[call-overload]  # PyTorch's stub lacks it

    def as_input(image: np.ndarray) -> Tensor:
        first = torch.from_numpy(image).permute(0, 3, 1, 2)
        return first.contiguous(memory_format=memory_format).to(device, dtype)

    return module, as_input


def _compiled(module: nn.Module, variant: str) -> Callable[[Tensor], Tensor]:
    """The module; of a variant that is compiled, something that is so at its first call."""
    return torch.compile(module) if VARIANTS[variant].is_compiled else module


def _autocast(config: DRSformerConfig, device: str) -> Callable[[], Any]:
    """What bfloat16 means in both libraries: activations; the parameters stay float32."""
    if config.dtype != "bfloat16":
        return contextlib.nullcontext
    return lambda: torch.autocast(device, torch.bfloat16)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _measured(
    run: Callable[[], None], output: Callable[[], dict[str, np.ndarray]], device: str, variant: str
) -> Program:
    """The program; a variant that is compiled is so now, at its first run."""
    facts: dict[str, Any] = {"device": device, "threads": torch.get_num_threads()}
    if VARIANTS[variant].is_compiled:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as cache:
            # Or what an earlier benchmark compiled would be found.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            run()
        facts["compile_seconds"] = time.perf_counter() - start
    if device != "cuda":
        return Program(run, output, facts)
    facts["device"] = torch.cuda.get_device_name()
    torch.cuda.reset_peak_memory_stats()
    return Program(run, output, facts, torch.cuda.max_memory_allocated)


def forward(config: DRSformerConfig, batch: int, size: int, device: str, variant: str) -> Program:
    """The reference network on an image on the device, without gradients."""
    device = _choose_device(device, config.precision)
    module, as_input = _reference(config, device, variant)
    network = _compiled(module, variant)
    image = as_input(rainy_image(batch, size))
    autocast = _autocast(config, device)
    last: list[Tensor] = []

    def run() -> None:
        with torch.inference_mode(), autocast():
            last[:] = [network(image)]
        _wait(device)

    def output() -> dict[str, np.ndarray]:
        return {"restored": last[0].double().permute(0, 2, 3, 1).cpu().numpy()}

    return _measured(run, output, device, variant)


def training_step(
    config: DRSformerConfig,
    recipe: dict[str, float],
    batch: int,
    size: int,
    device: str,
    variant: str,
) -> Program:
    """Forward, L1 loss, backward, clipping, AdamW. Each run is one step on; output of the first."""
    device = _choose_device(device, config.precision)
    module, as_input = _reference(config, device, variant)
    module.train()
    network = _compiled(module, variant)
    optimizer = adamw(module, SimpleNamespace(**recipe))  # type: ignore[arg-type]
    rainy, clean = (as_input(image) for image in training_pair(batch, size).values())
    autocast = _autocast(config, device)
    first: list[tuple[Tensor, Tensor]] = []

    def run() -> None:
        with autocast():
            step = update(network, optimizer, rainy, clean, recipe["clip_norm"])
        # Compiling a variant has taken its first step already.
        first[:] = first or [step]
        _wait(device)

    def output() -> dict[str, np.ndarray]:
        loss, norm = first[0]
        return {"loss": loss.float().cpu().numpy(), "gradient_norm": norm.float().cpu().numpy()}

    return _measured(run, output, device, variant)
