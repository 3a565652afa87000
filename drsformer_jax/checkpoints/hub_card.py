"""Publishing weights on the Hugging Face hub, with a card that says what they are."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

from drsformer_jax.checkpoints.fingerprint import fingerprint
from drsformer_jax.checkpoints.hub import FILE, PREFIX, require_hub
from drsformer_jax.checkpoints.names import sizes_of
from drsformer_jax.checkpoints.weights import Weights, save_weights
from drsformer_jax.errors import UserError, in_one_line

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
NOT_STATED = "not stated"

_CARD = """\
# {name}

DRSformer (Chen, Li, Li and Pan, CVPR 2023) for taking rain out of photographs, {parameters:,}
parameters.

```sh
pip install 'drsformer_jax[hub]'
drsformer derain photo.jpg --weights {address}
```

```python
from drsformer_jax import Derainer

clean = Derainer.from_pretrained("{repository}")(rainy)  # uint8 H W 3 in and out
```

| | |
|---|---|
| network | {summary} |
| data | {data} |
| scores | {score} |
| licence of the data | {data_licence} |
| SHA-256 of `{file}` | `{sha256}` |
| fingerprint of the parameters | `{fingerprint}` |
"""


def push(weights: Weights, repository: str, licence: str, *, private: bool, message: str) -> str:
    """Makes a repository, if it is missing, and puts weights and their card there in one commit.

    Args:
      repository: ORG/NAME.
      licence: of the weights, by the hub's name for it, such as "apache-2.0".

    Returns:
      The address of the weights with the commit.

    Raises:
      UserError: huggingface_hub is not installed, the name is none, or the hub refuses or cannot be
        reached.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository}: name the repository as ORG/NAME")
    require_hub(f"publishing {repository}")
    from huggingface_hub import CommitOperationAdd, HfApi

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, FILE)
        save_weights(file, weights)
        content = {FILE: file.read_bytes()}
    content["README.md"] = card(weights, repository, licence, content[FILE]).encode()
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(
            repository,
            [CommitOperationAdd(name, value) for name, value in content.items()],
            commit_message=message,
        )
    except Exception as error:  # with those of the library below, which are of many kinds
        raise UserError(
            f"{repository}: cannot be published ({in_one_line(error)}); `hf auth login` gives the "
            "right to"
        ) from error
    return f"{PREFIX}{repository}@{done.oid}"


def card(weights: Weights, repository: str, licence: str, content: bytes) -> str:
    """The README.md of a repository; `content`: of its file of weights."""
    from huggingface_hub import ModelCardData

    known, name = weights.metadata, repository.rpartition("/")[2]
    header = ModelCardData(
        license=licence,
        library_name="drsformer_jax",
        pipeline_tag="image-to-image",
        tags=["deraining", "image-restoration", "jax", "flax"],
        metrics=["psnr", "ssim"],
    )
    text = _CARD.format(
        name=name,
        repository=repository,
        address=f"{PREFIX}{repository}",
        parameters=sizes_of(weights.params)[1],
        summary=weights.config.summary(),
        data=known.get("data", NOT_STATED),
        score=known.get("score", NOT_STATED),
        data_licence=known.get("licence", NOT_STATED),
        file=FILE,
        sha256=hashlib.sha256(content).hexdigest(),
        fingerprint=fingerprint(weights.params),
    )
    return f"---\n{header.to_yaml()}\n---\n\n{text}"
