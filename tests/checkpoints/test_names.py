from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.checkpoints.names import (
    check_tree,
    from_tree,
    to_tree,
    torch_views,
)
from drsformer_jax.checkpoints.torch_names import torch_names
from drsformer_jax.errors import UserError, listing
from drsformer_jax.models.drsformer import DRSformer


def test_tree_is_the_one_the_network_declares(config, random_state):
    image = jnp.zeros((1, config.in_channels, 8, 8))
    shapes = jax.eval_shape(DRSformer(config).init, jax.random.key(0), image)["params"]
    tree = to_tree(random_state(config), config)
    assert jax.tree.map(np.shape, tree) == jax.tree.map(lambda leaf: leaf.shape, shapes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_bitwise(config, random_state, assert_same, dtype):
    state = {name: array.astype(dtype) for name, array in random_state(config).items()}
    for array in state.values():
        array.reshape(-1)[:2] = (-0.0, 1e-45)[: array.size]
    back = from_tree(to_tree(state, config), config)
    assert list(back) == list(torch_names(config))
    assert_same(back, state)
    assert all(array.flags.c_contiguous for array in back.values())


def test_layouts(small, random_state):
    state = random_state(small)
    tree = to_tree(state, small)
    level = tree["encoder_level2"]
    np.testing.assert_array_equal(
        level["ffn"]["dwconv5x5_1"]["kernel"][1, 3, 4, 0, 7],
        state["encoder_level2.1.ffn.dwconv5x5_1.weight"][7, 0, 3, 4],
    )
    assert level["attn"]["attn3"].shape == (2, 1)
    assert level["attn"]["attn3"][1] == state["encoder_level2.1.attn.attn3"]
    assert level["attn"]["temperature"].shape == (2, 2, 1, 1)


def test_tree_does_not_share_memory_with_the_state(small, random_state):
    state = random_state(small)
    tree = to_tree(state, small)
    state["patch_embed.proj.weight"][:] = 0
    assert np.all(tree["patch_embed"]["kernel"] != 0)


def test_views_are_of_the_tree_itself(small, random_state, assert_same):
    state = random_state(small)
    tree = to_tree(state, small)
    views = torch_views(tree, small)
    assert list(views) == list(torch_names(small))
    assert_same(views, state)
    tree["encoder_level2"]["norm1"]["scale"][1, 3] = 7
    assert views["encoder_level2.1.norm1.body.weight"][3] == 7


def test_a_tree_keeps_the_digits_of_the_widest_dtype(small, random_state):
    state = random_state(small)
    state["output.weight"] = state["output.weight"] + np.float64(1e-12)
    kernel = to_tree(state, small)["output"]["kernel"]
    np.testing.assert_array_equal(kernel, state["output.weight"].transpose(2, 3, 1, 0))
    assert kernel.dtype == np.float64


def test_every_difference_is_listed_at_once(small, random_state):
    state = random_state(small)
    del state["latent.0.ffn.project_in.weight"], state["output.weight"]
    state["encoder_level9.weight"] = np.zeros(3, np.float32)
    state["up4_3.body.0.weight"] = np.zeros((1, 2, 3, 3), np.float32)
    with pytest.raises(UserError) as caught:
        to_tree(state, small, "x.pth")
    message = str(caught.value)
    assert message.startswith("x.pth ")
    assert "\n" not in message
    for part in (
        "2 missing: ",
        "latent.0.ffn.project_in.weight",
        "output.weight",
        "1 unknown: encoder_level9.weight",
        "1 wrong shape: up4_3.body.0.weight (1, 2, 3, 3) should be (128, 64, 3, 3)",
    ):
        assert part in message


def test_a_tree_of_another_architecture_is_refused(small, random_state):
    tree = to_tree(random_state(small), small)
    tree["latent"]["norm1"]["scale"] = tree["latent"]["norm1"]["scale"][:, :-1]
    del tree["down1_2"]
    with pytest.raises(UserError, match=r"1 missing: down1_2/kernel.*latent/norm1/scale \(1, 63\)"):
        from_tree(tree, small)
    with pytest.raises(UserError, match="down1_2/kernel"):
        check_tree(tree, small)


def test_a_long_listing_says_how_much_it_leaves_out():
    assert listing(["a", "b"]) == "a, b"
    assert listing(map(str, range(25))).endswith("18, 19, and 5 more")


def test_a_listing_stays_on_one_line_and_short():
    assert listing(["a\nb"]) == r"'a\nb'"
    assert listing(["x" * 10_000]) == "x" * 160 + "..."
