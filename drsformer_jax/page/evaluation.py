"""An evaluation's folder, for the page: its scores and the restored pictures, by number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsformer_jax.errors import UserError

SCORES = "scores.json"
RESTORED = "restored"


@dataclass(frozen=True)
class EvaluatedSet:
    """The results of one data set: `scores`, a file, and the pictures that were scored."""

    name: str
    scores: Path
    pictures: tuple[Path, ...]

    def document(self) -> dict[str, Any]:
        """{"name", "pictures": names without suffix, "scores": what the file holds}.

        Raises:
          UserError: the file cannot be read.
        """
        try:
            scores = json.loads(self.scores.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{self.scores.name} of {self.name}: cannot be read") from error
        return {
            "name": self.name,
            "pictures": [picture.stem for picture in self.pictures],
            "scores": scores,
        }


def evaluated_sets(folder: Path) -> tuple[EvaluatedSet, ...]:
    """The sets in WORKDIR/evaluation: its own, or those of the folders in it.

    What can be asked for is listed once, here: clients name sets and pictures by their numbers.

    Raises:
      UserError: there are none.
    """
    try:
        folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    except OSError as error:
        raise UserError(f"--evaluation {folder}: cannot be read ({error.strerror})") from error
    sets = tuple(
        EvaluatedSet(
            place.absolute().name,
            place / SCORES,
            tuple(sorted((place / RESTORED).glob("*.png"))),
        )
        for place in folders
        if (place / SCORES).is_file()
    )
    if not sets:
        raise UserError(
            f"--evaluation {folder}: holds no {SCORES}, nor does a folder in it; eval.py writes "
            "WORKDIR/evaluation"
        )
    return sets
