"""Fixtures shared by the whole suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from reference.buckets import Buckets, serving

# What tests compile runs for a moment, and optimising it takes three times as long as the rest of
# compiling. Before JAX starts, and for the programs that tests start; whoever names others wins.
# What users' compiler makes of the network is looked at in tests/models/test_drsformer.py.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    # In one piece a program takes 15 % less, where other workers keep the other cores busy.
    " --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()
# A worker a core: further threads of PyTorch's would wait for it, and busily.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Programs that tests start write nothing into the developer's cache folder.
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

# Tracing makes millions of small objects beside the hundreds of thousands that imports leave, and
# looking through them all for garbage is a tenth of a test's time.
gc.set_threshold(50_000, 20, 50)


def pytest_collection_finish() -> None:
    """What is imported by now stays: it is not looked through again."""
    gc.collect()
    gc.freeze()


# A worker takes whole files. Those that take longest begin first, and no worker ends with one.
LONGEST = (
    "test_end_to_end.py",
    "test_network_rows.py",
    "test_documented_commands.py",
    "test_processes.py",
    "test_exporting.py",
    "test_fixtures.py",
    "test_examples.py",
    "test_plan.py",
    "test_benchmarks.py",
    "test_engines.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; the order within a file stays."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real image pairs and reference scores that developers keep beside the checkout.

    A newcomer has none: the tests that need it then skip and say so. DRSFORMER_SHARED names it.
    """
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("DRSFORMER_SHARED", default))
    if not (path / "data").is_dir():
        pytest.skip(f"no real image pairs: {path / 'data'} is not there (set DRSFORMER_SHARED)")
    return path


@pytest.fixture(scope="session")
def served_buckets() -> Iterator[Buckets]:
    # One server: libraries keep their connections.
    with serving("bkt") as buckets, pytest.MonkeyPatch.context() as patch:
        for name, value in buckets.environment.items():
            patch.setenv(name, value)
        yield buckets


@pytest.fixture
def buckets(
    served_buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Buckets]:
    """An empty bucket, gs://bkt, in memory; what is fetched of it lies in tmp_path / "cache"."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed (extra: gcs)")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    served_buckets.clear()
    yield served_buckets
    served_buckets.clear()
