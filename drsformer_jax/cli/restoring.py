"""How photographs are restored, and by which network: the flags that say so, and the network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from drsformer_jax.checkpoints.hub import weights_argument
from drsformer_jax.cli.cache import add_cache_argument, keep_programs
from drsformer_jax.cli.devices import check_devices
from drsformer_jax.errors import UserError
from drsformer_jax.inference.tiles import BLENDS, DEFAULT_BLEND, DEFAULT_OVERLAP

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer


def add_restoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what says how photographs are restored, and by which network."""
    parser.add_argument(
        "--weights",
        type=weights_argument,
        metavar="W",
        help="a .safetensors or .pth file, a converted checkpoint, a training workdir, a name that "
        "`drsformer models` lists, or hf://ORG/NAME on the Hugging Face hub (default: the first "
        "name)",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="T",
        help="restore in tiles of T x T pixels, a multiple of 8: bounds the memory, and larger "
        "images of all sizes need one compilation; 0: the whole image at once (default: whole, "
        "in tiles only if memory is short)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=DEFAULT_OVERLAP,
        metavar="O",
        help="pixels that neighbouring tiles share (default: %(default)s)",
    )
    parser.add_argument(
        "--blend",
        choices=BLENDS,
        default=DEFAULT_BLEND,
        help="how tiles are joined where they overlap: by weights that fall towards the border of "
        "each, or by the plain mean (default: %(default)s)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="share each image's rows, and the memory it takes, among N GPUs or TPU cores; on CPU, "
        "N parts of it (default: %(default)s)",
    )
    add_cache_argument(parser)


def load_derainer(args: argparse.Namespace) -> Derainer:
    """The network that `add_restoring_arguments` names, on its devices.

    Raises:
      UserError: there is none, or it is none for photographs.
    """
    from drsformer_jax.inference.derainer import Derainer

    if args.devices > 1:
        from drsformer_jax.inference.forward import make_cpu_devices

        make_cpu_devices(args.devices)
    check_devices()
    if not args.no_cache:
        keep_programs()
    derainer = Derainer.load(args.weights, devices=args.devices)
    if derainer.config.in_channels != 3:
        raise UserError(
            f"{args.weights}: weights for images of {derainer.config.in_channels} channels; "
            "photographs need 3"
        )
    return derainer
