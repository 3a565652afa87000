"""Scores a training run: `python eval.py --config configs/rain100l.py --workdir runs/rain100l`.

Restores the validation images of the configuration with the newest checkpoint of the workdir, and
writes the scores and the restored images to WORKDIR/evaluation.
"""

from __future__ import annotations

import sys

from drsformer_jax.cli.experiment import end_program, run_experiment


def main() -> int:
    return run_experiment("evaluate", sys.argv, __doc__ or "")


if __name__ == "__main__":
    end_program(main())
