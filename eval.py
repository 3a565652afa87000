"""Scores a training run: `python eval.py --config configs/rain100l.py --workdir runs/rain100l`.

Restores the validation images of the configuration, or the test images of the data sets named by
--set, with the newest checkpoint of the workdir. Scores, restored images and pictures of the best
and the worst go to WORKDIR/evaluation.
"""

from __future__ import annotations

import sys

from drsformer_jax.cli.evaluate import run
from drsformer_jax.cli.experiment import end_program


def main() -> int:
    return run(sys.argv, __doc__ or "")


if __name__ == "__main__":
    end_program(main())
