"""PyTorch's DataLoader with what the authors' training does to a pair of PNG files.

Each worker process reads both files, decodes them whole with OpenCV, makes float32 in [0, 1] of
them, pads where they are too small, crops the same window, flips and turns, and makes RGB tensors
`3 H W` of the two; batches are collated in the worker.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import Program
from drsformer_jax.errors import missing_extra


def loader(folder: str, *, workers: int, batch: int, patch: int, batches: int) -> Program:
    """Takes `batches` batches from a new DataLoader; called in a process of its own."""
    try:
        import cv2
    except ImportError as error:
        raise missing_extra("opencv-python-headless", "dev", "PyTorch's loader") from error
    import torch
    from torch.utils.data import DataLoader, Dataset

    # As many threads as workers, no more.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

    class Pairs(Dataset):
        def __init__(self) -> None:
            self.paths = [
                (path, Path(folder) / "target" / path.name)
                for path in sorted((Path(folder) / "input").iterdir())
            ]

        def __len__(self) -> int:
            # Endless, for all that is measured.
            return 10**9

        def __getitem__(self, index: int) -> dict[str, Any]:
            paths = self.paths[index % len(self.paths)]
            sides = [_read(cv2, path) for path in paths]
            sides = [_padded(cv2, side, patch) for side in sides]
            top = random.randint(0, sides[0].shape[0] - patch)
            left = random.randint(0, sides[0].shape[1] - patch)
            turn = random.randint(0, 7)
            tensors = []
            for side in sides:
                window = _turned(side[top : top + patch, left : left + patch], turn)
                rgb = cv2.cvtColor(np.ascontiguousarray(window), cv2.COLOR_BGR2RGB)
                tensors.append(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))))
            return {"lq": tensors[0], "gt": tensors[1]}

    def run() -> float:
        # As a program of theirs would start them on Linux.
        settings: Any = {"num_workers": workers, "multiprocessing_context": "fork"}
        iterator = iter(DataLoader(Pairs(), batch_size=batch, **settings))
        for _ in range(workers + 1):
            next(iterator)
        start = time.perf_counter()
        for _ in range(batches):
            next(iterator)
        return time.perf_counter() - start

    return Program(run)


def _read(cv2: Any, path: Path) -> np.ndarray:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32) / 255.0


def _padded(cv2: Any, image: np.ndarray, size: int) -> np.ndarray:
    bottom, right = (max(0, size - side) for side in image.shape[:2])
    if not bottom and not right:
        return image
    padded: np.ndarray = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)
    return padded


def _turned(image: np.ndarray, turn: int) -> np.ndarray:
    image = np.rot90(image, turn // 2)
    return np.flipud(image) if turn % 2 else image
