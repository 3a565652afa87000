"""Batches are a pure function of (seed, step): epochs, stages, restarts, threads, processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drsformer_jax.data.pipeline import Stage, training_batches
from drsformer_jax.data.sources import Pair
from drsformer_jax.data.transforms import dihedral
from drsformer_jax.errors import UserError

Batch = dict[str, np.ndarray]


class Numbered:
    """Source whose image i is filled with the value i; its target with 255 - i."""

    def __init__(self, length: int, size: int = 8) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pair:
        input = np.full((self.size, self.size, 3), index, np.uint8)
        return {"input": input, "target": 255 - input, "name": str(index)}


class Textured(Numbered):
    """Source of random pictures, the target being the input's complement."""

    def __getitem__(self, index: int) -> Pair:
        rng = np.random.default_rng(index)
        input = rng.integers(0, 256, (self.size, self.size + 3, 3), dtype=np.uint8)
        return {"input": input, "target": 255 - input, "name": str(index)}


def take(count: int, source: Numbered, **options: Any) -> list[Batch]:
    options = {"seed": 0, "num_threads": 0} | options
    batches = training_batches(source, **options)
    result = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return result


def numbers(batches: list[Batch]) -> list[int]:
    """The indices of the Numbered images in the batches, in order."""
    return [round(float(image[0, 0, 0]) * 255) for b in batches for image in b["input"]]


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


STAGES = [Stage(3, 4, 8), Stage(2, 2, 12), Stage(None, 6, 5)]


def test_batches_are_float32_patches_in_0_1() -> None:
    (batch,) = take(1, Textured(5, 20), stages=[Stage(None, 4, 16)])
    assert batch.keys() == {"input", "target"}
    for images in batch.values():
        assert images.dtype == np.float32
        assert images.shape == (4, 16, 16, 3)
        assert images.min() >= 0
        assert images.max() <= 1
    # Cropped and flipped alike, hence still complements.
    np.testing.assert_allclose(batch["input"] + batch["target"], 1, atol=1e-6)


def test_every_epoch_holds_every_image_once_in_another_order() -> None:
    drawn = numbers(take(21, Numbered(14), stages=[Stage(None, 2, 8)]))
    epochs = [drawn[0:14], drawn[14:28], drawn[28:42]]
    for epoch in epochs:
        assert sorted(epoch) == list(range(14))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(14))


def test_epochs_that_end_within_a_batch_and_sets_smaller_than_a_batch() -> None:
    drawn = numbers(take(7, Numbered(5), stages=[Stage(None, 15, 8)]))
    for start in range(0, 105, 5):
        assert sorted(drawn[start : start + 5]) == list(range(5))


def test_the_seed_decides() -> None:
    options = {"stages": [Stage(None, 4, 6)], "mixup": True}
    first = take(4, Textured(9), seed=1, **options)
    assert_equal(first, take(4, Textured(9), seed=1, **options))
    other = take(4, Textured(9), seed=2, **options)
    assert any((a["input"] != b["input"]).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("augment", "orientations"), [("dihedral", 8), ("mirror", 2)])
def test_patches_are_flipped_and_turned(augment: str, orientations: int) -> None:
    source = Textured(3, 8)
    padded = [np.pad(source[i]["input"], ((0, 3), (0, 0), (0, 0)), "reflect") for i in range(3)]
    known = {dihedral(image, k).tobytes() for image in padded for k in range(orientations)}
    batches = take(100, source, stages=[Stage(None, 3, 11)], augment=augment)
    drawn = {np.rint(i * 255).astype(np.uint8).tobytes() for b in batches for i in b["input"]}
    assert drawn == known


@pytest.mark.parametrize("mixup", [False, True])
def test_a_restart_continues_exactly(mixup: bool) -> None:
    whole = take(9, Textured(7), stages=STAGES, mixup=mixup)
    for start in range(9):
        rest = take(9 - start, Textured(7), stages=STAGES, mixup=mixup, start_step=start)
        assert_equal(rest, whole[start:])


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_change_nothing(num_threads: int) -> None:
    options = {"stages": STAGES, "mixup": True}
    expected = take(9, Textured(7), **options)
    assert_equal(take(9, Textured(7), num_threads=num_threads, **options), expected)


def share_of(process: int, processes: int) -> Callable[[int], np.ndarray]:
    """The images of a global batch that one of several processes holds."""
    return lambda batch: np.split(np.arange(batch), processes)[process]


@pytest.mark.parametrize("process_count", [1, 2])
def test_processes_hold_contiguous_shares_of_the_same_batch(process_count: int) -> None:
    options = {"stages": STAGES, "mixup": True}
    expected = take(9, Textured(7), **options)
    shares = [
        take(9, Textured(7), images=share_of(i, process_count), **options)
        for i in range(process_count)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_equal(joined, expected)


def test_another_process_count_after_a_restart_changes_nothing() -> None:
    expected = take(8, Textured(7), stages=STAGES, mixup=True)[6]
    halves = [
        take(1, Textured(7), stages=STAGES, mixup=True, start_step=6, images=share_of(i, 2))[0]
        for i in range(2)
    ]
    joined = np.concatenate([half["input"] for half in halves])
    np.testing.assert_array_equal(joined, expected["input"])


def test_stages_follow_each_other_without_losing_a_sample() -> None:
    batches = take(8, Numbered(50, size=16), stages=STAGES)
    shapes = [batch["input"].shape for batch in batches]
    assert shapes == [(4, 8, 8, 3)] * 3 + [(2, 12, 12, 3)] * 2 + [(6, 5, 5, 3)] * 3
    single = take(17, Numbered(50, size=16), stages=[Stage(None, 2, 8)])
    assert numbers(batches) == numbers(single)
    assert len(set(numbers(batches))) == 34


def test_mixup_touches_half_of_the_batches() -> None:
    options: dict[str, Any] = {"stages": [Stage(None, 4, 4)]}
    plain = take(60, Numbered(8, 4), **options)
    mixed = take(60, Numbered(8, 4), mixup=True, **options)
    changed = 0
    for before, after in zip(plain, mixed, strict=True):
        np.testing.assert_allclose(after["input"] + after["target"], 1, atol=1e-5)
        np.testing.assert_allclose(
            after["input"].mean(axis=(0, 3)), before["input"].mean(axis=(0, 3)), atol=1e-5
        )
        changed += (before["input"] != after["input"]).any()
    assert 18 < changed < 42


def test_errors_of_the_source_reach_the_training_loop() -> None:
    class Broken(Numbered):
        def __getitem__(self, index: int) -> Pair:
            raise UserError("pair.png: vanished")

    batches = training_batches(Broken(3), seed=0, stages=[Stage(None, 2, 8)], num_threads=2)
    with pytest.raises(UserError, match=r"pair\.png: vanished"):
        next(batches)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "no training stages"),
        ([Stage(None, 4, 8), Stage(None, 4, 8)], "stage 1: steps"),
        ([Stage(0, 4, 8), Stage(None, 4, 8)], "stage 1: steps"),
        ([Stage(3, 4, 8), Stage(None, 0, 8)], "stage 2: batch size 0"),
        ([Stage(None, 4, 0)], "patch size 0"),
    ],
)
def test_impossible_stages_are_refused(stages: list[Stage], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training_batches(Numbered(3), seed=0, stages=stages)


def test_empty_sets_and_negative_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        training_batches(Numbered(0), seed=0, stages=[Stage(None, 1, 8)])
    with pytest.raises(UserError, match="seed"):
        training_batches(Numbered(3), seed=-1, stages=[Stage(None, 1, 8)])
