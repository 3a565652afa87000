"""Trains a DRSformer: `python train.py --config configs/rain100l.py --workdir runs/rain100l`.

Started again with the same flags it carries on from the newest checkpoint. Keys of the
configuration (configs/base.py lists them) are set as `--config.total_steps=1000`.
"""

from __future__ import annotations

import sys

from drsformer_jax.cli.experiment import end_program
from drsformer_jax.cli.train import run


def main() -> int:
    return run(sys.argv, __doc__ or "")


if __name__ == "__main__":
    end_program(main())
