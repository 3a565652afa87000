"""What float32 does to the network, in PyTorch alone: which module loses how much, and where.

    python -m benchmarks.rounding --json rounding.json

1. By kind of module: the value of a float32 module against the same module in float64 on the same
   float32 input, relative L2 (what the module itself rounds), and against the value in a float64
   run of the whole network (what has come together until there).
2. The whole network: its output, and the gradient of every parameter, in float32 against float64;
   once as it is, and once with a smooth function (SiLU) in the place of every ReLU, which leaves
   nothing for rounding to decide but the top-k choices.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import records
from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.parity.comparison import difference
from drsformer_jax.parity.images import built_in_image
from drsformer_jax.parity.random_weights import random_weights
from drsformer_jax.parity.recording import RESTORED, probes_of
from drsformer_jax.parity.torch_recording import record_gradients, record_repeated
from drsformer_jax.parity.torch_reference import build_reference

TOLERANCE = 1e-5


def own_rounding(
    single: nn.Module, double: nn.Module, config: DRSformerConfig, image: np.ndarray
) -> dict[str, list[float]]:
    """By kind: relative L2 between modules in float32 and in float64 on the same input."""
    found: dict[str, list[float]] = defaultdict(list)

    def compare(kind: str, exact: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            expected = exact(inputs[0].double()).numpy()
            found[kind].append(difference(output.numpy(), expected).relative_l2)

        return hook

    for probe in probes_of(config):
        if probe.kind not in ("image", "MEFC step"):  # a step's second input is the gate
            module, exact = single.get_submodule(probe.name), double.get_submodule(probe.name)
            module.register_forward_hook(compare(probe.kind, exact))
    with torch.no_grad():
        single(torch.from_numpy(np.float32(image)))
    return found


def compare_precisions(
    config: DRSformerConfig, tensors: dict[str, np.ndarray], image: np.ndarray
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """(numbers of the whole network, relative L2 of values by kind), float32 against float64."""
    module = build_reference(config, tensors)
    recordings = []
    for source in (image.astype(np.float32), image):
        recordings.append(record_repeated(module, config, source)[0])
        record_gradients(recordings[-1], module, config, source)
    single, double = recordings
    assert single.gradients is not None
    assert double.gradients is not None
    gradients = [
        difference(gradient, double.gradients[name]).relative_l2
        for name, gradient in single.gradients.items()
    ]
    accumulated: dict[str, list[float]] = defaultdict(list)
    for probe in probes_of(config):
        found = difference(single.outputs[probe.name], double.outputs[probe.name])
        accumulated[probe.kind].append(found.relative_l2)
    signs = [(single.active[name] != active).sum() for name, active in double.active.items()]
    choices = [(single.chosen[name] != chosen).sum() for name, chosen in double.chosen.items()]
    numbers = {
        "output_max_abs": difference(single.outputs[RESTORED], double.outputs[RESTORED]).max_abs,
        "other_signs": int(sum(signs)),
        "signs": sum(active.size for active in double.active.values()),
        "other_top_k_entries": int(sum(choices)),
        "gradient_median": float(np.median(gradients)),
        "gradient_p95": float(np.percentile(gradients, 95)),
        "gradient_max": max(gradients),
        "gradients_beyond": sum(gradient > TOLERANCE for gradient in gradients),
        "gradients": len(gradients),
    }
    return numbers, accumulated


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    config = PRESETS[args.preset]
    tensors = dict(from_tree(random_weights(config, 0).params, config))
    image = np.ascontiguousarray(built_in_image()[None].transpose(0, 3, 1, 2))

    single = build_reference(config, tensors)
    own = own_rounding(single, copy.deepcopy(single).double(), config, image)
    relu, accumulated = compare_precisions(config, tensors, image)
    original = torch.Tensor.relu, nn.ReLU.forward
    torch.Tensor.relu = nn.functional.silu  # type: ignore[assignment]
    nn.ReLU.forward = lambda self, input: nn.functional.silu(input)  # type: ignore[method-assign]
    silu, _ = compare_precisions(config, tensors, image)
    torch.Tensor.relu, nn.ReLU.forward = original  # type: ignore[method-assign]

    print(f"{args.preset}, 64x64, PyTorch float32 against float64, relative L2 (median, largest)")
    print(f"{'module':<14}{'number':>7}{'its own rounding':>22}{'until there':>22}")
    for kind, values in accumulated.items():
        alone = own.get(kind)
        line = f"{kind:<14}{len(values):>7}"
        line += f"{np.median(alone):>12.1e}{max(alone):>10.1e}" if alone else f"{'-':>22}"
        print(f"{line}{np.median(values):>12.1e}{max(values):>10.1e}")
    for name, numbers in (("ReLU", relu), ("SiLU", silu)):
        print(
            f"{name}: output {numbers['output_max_abs']:.1e}; gradients, relative L2: median "
            f"{numbers['gradient_median']:.1e}, 95 % {numbers['gradient_p95']:.1e}, largest "
            f"{numbers['gradient_max']:.1e}, {numbers['gradients_beyond']} of "
            f"{numbers['gradients']} beyond {TOLERANCE:g}; {numbers['other_signs']} of "
            f"{numbers['signs']:,} signs and {numbers['other_top_k_entries']} top-k entries differ"
        )
    return {
        "benchmark": "rounding",
        "own_rounding": own,
        "until_there": accumulated,
        "relu": relu,
        "silu": silu,
    }


def main() -> int:
    return records.run(benchmark, records.parser("rounding", __doc__).parse_args(), plotted=False)


if __name__ == "__main__":
    sys.exit(main())
