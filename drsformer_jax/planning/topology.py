"""The chips of a TPU that this machine does not have, as a mesh to compile for."""

from __future__ import annotations

import os
import re

from jax.experimental import topologies
from jax.sharding import Mesh

from drsformer_jax.errors import UserError
from drsformer_jax.planning.chips import chip_of
from drsformer_jax.training.sharding import MeshOptions, make_mesh

# Some others end the process inside libtpu (v5e:0x0), where nothing can catch it.
_TOPOLOGY = re.compile(r"\w+:[1-9]\d*(x[1-9]\d*)*(_(un)?twisted)?")


def tpu_mesh(topology: str, chips: int | None = None, options: MeshOptions | None = None) -> Mesh:
    """The mesh over the chips of a TPU topology, such as "v5e:4x4".

    Args:
      chips: the first so many only.
      options: sizes of the axes; by default all chips along "data".

    Raises:
      UserError: libtpu is not installed, or does not know the topology; the chips are none of
        `CHIPS`, or do not make up the mesh.
    """
    settings = chip_of(topology).settings
    if not _TOPOLOGY.fullmatch(topology):
        raise UserError(f"topology {topology!r}: must be a chip and sizes, such as v5e:4x4")
    # Without these libtpu looks for the machine's own TPU, and for others that compile.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # Any will do: it keeps libtpu from warning that it does not know what machine this is.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **settings
        )
    except Exception as error:  # of the plugin: what it raises is not documented
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"no compiler for the topology {topology!r} ({reason}): "
            "pip install 'drsformer_jax[tpu]', and name one such as v5e:4x4"
        ) from error
    return make_mesh(options, devices=description.devices[:chips])
