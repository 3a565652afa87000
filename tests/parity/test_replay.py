"""Following another program's decisions, and nothing but those that are open."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from reference.small import TINY

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.comparison import difference
from drsformer_jax.parity.images import built_in_image
from drsformer_jax.parity.jax_network import record
from drsformer_jax.parity.random_weights import random_weights
from drsformer_jax.parity.recording import RESTORED, Recording, decisions_of
from drsformer_jax.parity.replay import decision_tree, with_signs

CONFIG = DRSformerConfig(**TINY, precision="highest")
WEIGHTS = random_weights(CONFIG, 0)
ATTENTION = "decoder_level2.1.attn"
IMAGE = np.float32(built_in_image()[None, :16, :24].transpose(0, 3, 1, 2))


def test_signs_are_moved_just_across_zero_with_slope_one() -> None:
    x = np.float32([-2.0, -1e-9, 0.0, 1e-9, 3.0])
    active = np.array([False, True, True, False, True])
    y, pull_back = jax.vjp(lambda x: with_signs(x, active), x)
    assert ((np.asarray(y) > 0) == active).all()
    np.testing.assert_allclose(y, x, atol=1e-8)
    np.testing.assert_array_equal(pull_back(np.float32([1, 2, 3, 4, 5]))[0], [1, 2, 3, 4, 5])


@pytest.fixture(scope="module")
def own() -> Recording:
    return record(CONFIG, WEIGHTS.params, IMAGE, tolerance=0.5)


def other_choice(own: Recording) -> Recording:
    """In one row, the two entries at the border of the first branch's choice exchanged."""
    chosen = {name: masks.copy() for name, masks in own.chosen.items()}
    order = np.argsort(-own.logits[ATTENTION][0, 0, 0])
    k = chosen[ATTENTION][0, 0, 0, 0].sum()
    chosen[ATTENTION][0, 0, 0, 0, order[k - 1]] = False
    chosen[ATTENTION][0, 0, 0, 0, order[k]] = True
    return Recording(chosen=chosen)


def test_a_choice_within_tolerance_is_followed(own: Recording) -> None:
    other = other_choice(own)
    followed = record(CONFIG, WEIGHTS.params, IMAGE, other, tolerance=0.5)
    assert difference(followed.outputs[ATTENTION], own.outputs[ATTENTION]).max_abs > 1e-4
    # What is told is still the own choice.
    np.testing.assert_array_equal(followed.chosen[ATTENTION], own.chosen[ATTENTION])


def test_a_choice_beyond_tolerance_is_not(own: Recording) -> None:
    other = other_choice(own)
    kept = record(CONFIG, WEIGHTS.params, IMAGE, other, tolerance=1e-9)
    assert difference(kept.outputs[RESTORED], own.outputs[RESTORED]).max_abs < 1e-6


def test_another_number_of_entries_is_not(own: Recording) -> None:
    chosen = {name: masks.copy() for name, masks in own.chosen.items()}
    chosen[ATTENTION][:] = True
    other = Recording(chosen=chosen)
    kept = record(CONFIG, WEIGHTS.params, IMAGE, other, tolerance=0.5)
    assert difference(kept.outputs[RESTORED], own.outputs[RESTORED]).max_abs < 1e-6


def test_incomplete_decisions_are_left_out(own: Recording) -> None:
    chosen = dict(own.chosen)
    del chosen[ATTENTION]
    assert decision_tree(Recording(chosen=chosen), CONFIG) == {}
    tree = decision_tree(own, CONFIG)
    assert tree["decoder_level2"]["attn"]["chosen"].shape == (2, 4, 1, 2, 8, 8)


def test_there_is_a_decision_for_every_relu_and_attention() -> None:
    """5 in a step of MEFC, 2 before its steps; 4 in a block, and its attention."""
    decisions = decisions_of(CONFIG)
    blocks = 2 * sum(CONFIG.num_blocks) - CONFIG.num_blocks[3]
    assert sum(decision.kind == "top-k" for decision in decisions) == blocks
    assert sum(decision.kind == "ReLU" for decision in decisions) == 4 * blocks + 2 * (2 + 4 * 5)
    assert len({decision.name for decision in decisions}) == len(decisions)
