"""DRSformer, the sparse Transformer for image deraining (CVPR 2023), in JAX and Flax."""

__version__ = "0.1.0"
