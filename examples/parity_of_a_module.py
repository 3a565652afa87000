"""Does a Flax module of yours compute what a PyTorch module does? Values and gradients, in float64.

python examples/parity_of_a_module.py
"""

import jax
import numpy as np
import torch

from drsformer_jax.models.feed_forward import MixedScaleFeedForward
from drsformer_jax.ops.image import Image
from drsformer_jax.parity.torch_drsformer import FeedForward

jax.config.update("jax_enable_x64", True)
theirs = FeedForward(8, 2.66, bias=False).double()
ours = MixedScaleFeedForward(hidden_channels=21)
params = {  # PyTorch's kernels are O I kh kw, Flax's kh kw I O
    name.removesuffix(".weight"): {"kernel": weight.detach().numpy().transpose(2, 3, 1, 0)}
    for name, weight in theirs.named_parameters()
}
image = np.random.default_rng(0).standard_normal((2, 8, 16, 24))

source = torch.tensor(image, requires_grad=True)
value = theirs(source)
value.square().sum().backward()
output, pull = jax.vjp(lambda x: ours.apply({"params": params}, Image(x)).array, image)
(gradient,) = pull(2 * output)

for what, a, b in (("value", output, value.detach()), ("gradient", gradient, source.grad)):
    print(f"{what:8} largest difference {np.abs(a - b.numpy()).max():.1e}")
