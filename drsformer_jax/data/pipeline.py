"""Training batches: a pure function of the seed and the step, prefetched by Grain's threads.

The samples form one endless sequence, fixed by the seed: epoch after epoch of the source, each
shuffled anew. Step s takes the next batch of it, so a restart at step s continues exactly where
the interrupted run would have gone on, whatever the number of threads or of processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drsformer_jax.data.sources import Pair, PairSource
from drsformer_jax.data.transforms import (
    DIHEDRAL,
    ORIENTATIONS,
    blend,
    dihedral,
    draw_mixup,
    random_crop_pair,
)
from drsformer_jax.errors import UserError

# Keeps the draws for mixup apart from the other uses of the seed.
_MIXUP_STREAM = 1

_BATCHES_AHEAD_PER_THREAD = 2


@dataclass(frozen=True)
class Stage:
    """A part of the training with one batch and patch size (progressive learning).

    Attributes:
        steps: how many steps it lasts; the last stage lasts for ever, and may say None.
        batch_size: global batch, over all processes.
        patch_size: height and width of the patches in pixels.
    """

    steps: int | None
    batch_size: int
    patch_size: int


@dataclass(frozen=True)
class _Span:
    """A stage with its first step and the number of samples consumed before it."""

    first_step: int
    first_sample: int
    stage: Stage


def training_batches(
    source: PairSource,
    *,
    seed: int,
    stages: Sequence[Stage],
    start_step: int = 0,
    mixup: bool = False,
    augment: str = DIHEDRAL,
    num_threads: int = 4,
    images: Callable[[int], np.ndarray] = np.arange,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches `input`, `target`: float32 in [0, 1], `B H W 3`, from step `start_step` on.

    Each process makes the images of the global batch that its devices hold, and no others. Threads
    read ahead of the training loop; with `num_threads` 0 everything happens in the caller's thread.

    Args:
        mixup: blend a random half of the batches with themselves (transforms.mixup).
        augment: "dihedral", the authors' eight flips and rotations, or "mirror", left and right
          alone: rain then falls in training as it does in photographs.
        images: which images of a global batch of the given size are wanted; by default all.

    Raises UserError for stages that are empty or not positive.
    """
    import grain

    if len(source) == 0:
        raise UserError("the training set is empty")
    if seed < 0:
        raise UserError(f"the seed must not be negative, got {seed}")
    spans = _spans(stages)
    shuffled = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    patches = [
        shuffled.random_map(_patch_maker(span.stage.patch_size, ORIENTATIONS[augment]))
        for span in spans
    ]

    def local_batch(step: int) -> dict[str, np.ndarray]:
        which = _current(spans, step)
        span, stage = spans[which], spans[which].stage
        offset = span.first_sample + (step - span.first_step) * stage.batch_size
        rows = images(stage.batch_size)
        drawn = None
        if mixup:
            drawn = draw_mixup(stage.batch_size, np.random.default_rng((seed, _MIXUP_STREAM, step)))
        if drawn is None:
            return _stack(patches[which], offset + rows)
        # The partners may lie in other processes' shares: they are made here once more.
        weight, partners = drawn
        own = _stack(patches[which], offset + rows)
        others = _stack(patches[which], offset + partners[rows])
        return {name: blend(own[name], others[name], weight) for name in own}

    batches = grain.MapDataset.range(start_step, sys.maxsize).map(local_batch)
    iterator = iter(
        batches.to_iter_dataset(
            grain.ReadOptions(
                num_threads=num_threads,
                prefetch_buffer_size=_BATCHES_AHEAD_PER_THREAD * num_threads,
            )
        )
    )
    iterator.start_prefetch()
    return iterator


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage whose batch and patch size the step after `step` finished ones has."""
    spans = _spans(stages)
    return spans[_current(spans, step)].stage


def _current(spans: Sequence[_Span], step: int) -> int:
    return max(i for i, span in enumerate(spans) if span.first_step <= step)


def _spans(stages: Sequence[Stage]) -> list[_Span]:
    """Places the stages one after the other; raises UserError for impossible ones."""
    if not stages:
        raise UserError("no training stages: give at least one batch and patch size")
    spans = []
    step = sample = 0
    for number, stage in enumerate(stages, start=1):
        if stage.batch_size < 1 or stage.patch_size < 1:
            raise UserError(
                f"stage {number}: batch size {stage.batch_size} and patch size "
                f"{stage.patch_size} must be positive"
            )
        spans.append(_Span(step, sample, stage))
        if number < len(stages):
            if stage.steps is None or stage.steps < 1:
                raise UserError(
                    f"stage {number}: steps must be a positive number (got {stage.steps}); only "
                    "the last stage may go on for ever"
                )
            step += stage.steps
            sample += stage.steps * stage.batch_size
    return spans


def _patch_maker(
    patch_size: int, orientations: int
) -> Callable[[Pair, np.random.Generator], dict[str, np.ndarray]]:
    """The random map from a pair to its training patch, both uint8."""

    def patch(pair: Pair, rng: np.random.Generator) -> dict[str, np.ndarray]:
        input, target = random_crop_pair(pair["input"], pair["target"], patch_size, rng)
        k = int(rng.integers(orientations))
        return {"input": dihedral(input, k), "target": dihedral(target, k)}

    return patch


def _stack(patches: Sequence[dict[str, np.ndarray]], indices: np.ndarray) -> dict[str, np.ndarray]:
    """The samples at `indices` as one batch, float32 in [0, 1]."""
    samples = [patches[int(index)] for index in indices]
    return {
        name: np.stack([sample[name] for sample in samples]).astype(np.float32) / np.float32(255)
        for name in ("input", "target")
    }
