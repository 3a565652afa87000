"""One iteration of the authors' training program, with PyTorch's own parts.

(CVPR 2023, section 4.1; the options and the loop they released.) It imports PyTorch: import it
late. JAX is not imported, so that a process that measures PyTorch's memory holds PyTorch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def adamw(
    module: nn.Module,
    *,
    learning_rate: float,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """AdamW on every parameter; names as in configs/base.py."""
    return torch.optim.AdamW(
        module.parameters(), lr=learning_rate, betas=(b1, b2), eps=eps, weight_decay=weight_decay
    )


def update(
    network: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    rainy: Tensor,
    clean: Tensor,
    clip_norm: float,
) -> tuple[Tensor, Tensor]:
    """L1 loss, its gradient, clipped, and a step of the optimizer.

    Args:
      network: its parameters are the optimizer's.
      rainy, clean: B C H W in [0, 1].
      clip_norm: of the gradient over all parameters; 0: no clipping.

    Returns:
      The loss before the step, and the gradient's norm before clipping.
    """
    optimizer.zero_grad()
    loss = F.l1_loss(network(rainy), clean)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf)
    optimizer.step()
    return loss.detach(), norm
