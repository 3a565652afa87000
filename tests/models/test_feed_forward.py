"""The mixed-scale feed-forward network against the PyTorch module."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import jax
import numpy as np
from reference.parity import (
    assert_trees_close,
    gradients_of,
    part_tree,
    torch_results,
    value_and_gradients,
    weights_of,
)
from reference.perturbed import perturb
from reference.small import on_image

from drsformer_jax.models.feed_forward import MixedScaleFeedForward
from drsformer_jax.parity.torch_drsformer import FeedForward


# Odd hidden sizes: one pair of the grouped convolutions straddles the seam of the concatenation.
@pytest.mark.parametrize(("hidden", "bias"), [(5, True), (4, False), (1, False)])
def test_agrees_with_pytorch(hidden: int, bias: bool) -> None:
    channels = 3
    reference = perturb(FeedForward(channels, (hidden + 0.5) / channels, bias), seed=0).double()
    assert reference.hidden == hidden
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(2, 2, channels, 6, 7))
    expected, x_gradient = torch_results(reference, x, cotangent)
    module = MixedScaleFeedForward(hidden, use_bias=bias)
    with jax.enable_x64(True):
        function = value_and_gradients(on_image(module))
        actual = function(part_tree(weights_of(reference)), x, cotangent)
    gradients = part_tree(gradients_of(reference))
    assert_trees_close(actual, (expected, gradients, x_gradient), 1e-12)
