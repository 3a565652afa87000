"""The yardstick itself: published sizes, and that it really uses everything it holds."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from reference.perturbed import perturb  # noqa: E402

from drsformer_jax.parity.torch_drsformer import DRSformer  # noqa: E402

TINY = {"dim": 8, "num_blocks": (1, 1, 1, 1), "heads": (1, 2, 4, 8)}


@pytest.mark.parametrize(
    ("use_mefc", "parameters", "tensors"), [(True, 33_655_424, 924), (False, 32_610_304, 730)]
)
def test_size_is_the_published_one(use_mefc, parameters, tensors):
    with torch.device("meta"):
        module = DRSformer(use_mefc=use_mefc)
    state = module.state_dict()
    assert len(state) == tensors
    assert sum(t.numel() for t in state.values()) == parameters


@pytest.mark.parametrize("norm", ["WithBias", "BiasFree"])
def test_every_parameter_moves_the_output(norm):
    module = DRSformer(**TINY, bias=True, LayerNorm_type=norm).double()
    perturb(module, seed=0)
    image = torch.rand(1, 3, 16, 24, dtype=torch.float64, requires_grad=True)
    module(image).square().mean().backward()
    dead = [name for name, p in module.named_parameters() if not p.grad.abs().max() > 0]
    assert dead == []


def test_single_precision_agrees_with_double():
    module = perturb(DRSformer(**TINY), seed=1)
    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        single = module(image)
        double = module.double()(image.double())
    assert (double - image).abs().mean() > 1e-2
    assert (single - double).abs().max() < 1e-5
