"""What a run keeps in its workdir beside the checkpoints, where that is in a bucket.

Nothing is appended to there: the files grow in a folder of this machine, and those that have
changed are uploaded whole when a checkpoint is saved.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from drsformer_jax.buckets import fetch, is_in_bucket, upload

# What is in the bucket and not needed here: of the folders, all that a run adds to.
_STAYS = ("checkpoints/", "tensorboard/", "profile/", "run.lock", "report.html")


class Mirror:
    """A folder of this machine in the place of a workdir; the workdir itself if it is one."""

    def __init__(self, workdir: Path, folder: Path) -> None:
        """What is in the folder is as the workdir has it."""
        self.folder, self._workdir = folder, workdir
        self._uploaded = self._states()

    def _states(self) -> dict[Path, tuple[int, int]]:
        """Size and time of each file."""
        if self.folder == self._workdir:
            return {}
        files = [(path, path.stat()) for path in self.folder.rglob("*") if path.is_file()]
        return {path: (status.st_size, status.st_mtime_ns) for path, status in files}

    def upload(self) -> None:
        """Writes into the workdir what has changed in the folder.

        Raises:
          UserError: the bucket does not take it.
        """
        for path, state in self._states().items():
            if self._uploaded.get(path) != state:
                upload(path, self._workdir / path.relative_to(self.folder).as_posix())
                self._uploaded[path] = state


@contextlib.contextmanager
def mirrored(workdir: Path) -> Iterator[Mirror]:
    """A workdir's files on this machine, as they are now; nothing is uploaded unasked.

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_in_bucket(workdir):
        yield Mirror(workdir, workdir)
        return
    with tempfile.TemporaryDirectory(prefix="drsformer.") as scratch:
        folder = Path(scratch, workdir.name)
        folder.mkdir()
        fetch(workdir, folder, lambda name: not (name.startswith(_STAYS) or "/restored/" in name))
        yield Mirror(workdir, folder)
