"""`drsformer push`: weights, published on the Hugging Face hub with a card."""

from __future__ import annotations

import argparse

from drsformer_jax.checkpoints.hub import weights_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Publish weights on the Hugging Face hub: model.safetensors, and a card that says what "
        "they are, in one commit. The repository is made if it is missing. `hf auth login`, or "
        "HF_TOKEN, gives the right to."
    )
    parser.add_argument(
        "weights",
        type=weights_argument,
        metavar="W",
        help="weights, as `drsformer derain` takes them",
    )
    parser.add_argument("repository", metavar="ORG/NAME", help="where to")
    parser.add_argument(
        "--license",
        required=True,
        metavar="L",
        help="of the weights, by the hub's name for it, such as apache-2.0 or cc-by-nc-4.0",
    )
    parser.add_argument(
        "--private", action="store_true", help="a new repository is seen by you alone"
    )
    parser.add_argument(
        "--message", default="Weights and their card", metavar="TEXT", help="of the commit"
    )


def run(args: argparse.Namespace) -> int:
    """Publishes; returns 0, or raises UserError."""
    from drsformer_jax.checkpoints.hub_card import push
    from drsformer_jax.checkpoints.weights import load_weights

    weights = load_weights(args.weights)
    address = push(
        weights, args.repository, args.license, private=args.private, message=args.message
    )
    print(address)
    return 0
