from drsformer_jax.checkpoints.weights import load_weights as load_weights
from drsformer_jax.inference.derainer import Derainer as Derainer
from drsformer_jax.models.drsformer import restore as restore
from drsformer_jax.training.loop import train as train

__version__: str
__all__ = ["Derainer", "load_weights", "restore", "train"]
