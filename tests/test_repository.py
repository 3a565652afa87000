"""What holds for the repository as a whole: recipes, dependencies, the direction of imports."""

from __future__ import annotations

import ast
import graphlib
import hashlib
import importlib
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import drsformer_jax
from drsformer_jax.data.pipeline import Stage
from drsformer_jax.models.config import PRESETS
from drsformer_jax.scores.protocols import PROTOCOLS
from drsformer_jax.training.config import training_options
from drsformer_jax.training.optimizer import OptimizerOptions

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "drsformer_jax"
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")

# The paper's data sets: with MEFC or without (section 4.1), and the protocol of its table 1.
PAPER_RECIPES = {
    "rain200l": (False, "rain200"),
    "rain200h": (True, "rain200"),
    "did_data": (True, "did_ddn"),
    "ddn_data": (True, "did_ddn"),
    "spa_data": (False, "rain200"),
    # Not in the paper: as its sibling Rain200L.
    "rain100l": (False, "rain200"),
}

REQUIRED = {
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "numpy",
    "einops",
    "clu",
}

# What each part of the package may import of the others: ops <- models <- {training, checkpoints,
# inference} <- {evaluation, parity, planning} <- cli.
SHARED = {"buckets", "errors", "files", "paths", "tables"}
MAY_IMPORT = {
    "errors": set(),
    "paths": {"errors"},
    "buckets": {"errors", "paths"},
    "files": {"buckets", "paths"},
    "tables": set(),
    "jobs": SHARED,
    "processes": {"buckets", "errors", "paths"},
    "ops": set(),
    "models": {"ops"},
    "data": SHARED,
    "checkpoints": SHARED | {"models"},
    "inference": SHARED | {"ops", "models", "data", "checkpoints"},
    "scores": SHARED | {"data"},
    "training": SHARED
    | {"processes", "ops", "models", "data", "checkpoints", "inference", "scores"},
    # Not needed to understand the program.
    "page": SHARED | {"data", "inference", "scores"},
    "film": SHARED | {"jobs"},
    "evaluation": SHARED | {"processes", "models", "data", "checkpoints", "inference", "scores"},
    "datasets": SHARED | {"data", "scores", "jobs"},
    "basicsr": SHARED | {"models", "data", "checkpoints", "training"},
    "parity": SHARED | {"models", "data", "checkpoints", "training"},
    "exporting": SHARED | {"models", "checkpoints", "inference", "parity"},
    "planning": SHARED | {"models", "data", "training"},
}
MAY_IMPORT["cli"] = SHARED | (MAY_IMPORT.keys() - {"errors", "files", "paths", "ops"})

# Slow to import, or optional: nowhere at the top of a module.
LATE = {
    *("tensorflow", "tensorboard", "tensorflow_datasets", "torch", "grain", "skimage"),
    *("starlette", "uvicorn", "python_multipart"),
    *("onnx", "onnxruntime", "huggingface_hub", "av", "ray", "gcsfs", "fsspec"),
}
FLAG_PARSERS = {"argparse", "absl", "ml_collections"}
FILE_MODULES = {"os", "pathlib", "io", "shutil", "tempfile", "json", "safetensors", "orbax"}


@dataclass(frozen=True)
class Import:
    """One import statement: `what` is a dotted name; `late` if it stands inside a function.

    One that is for types alone is late, too. `module` is what the statement imports from, or `what`
    itself.
    """

    file: Path
    line: int
    what: str
    late: bool
    module: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.what}"

    @property
    def top(self) -> str:
        return self.what.split(".")[0]


def for_types(node: ast.AST) -> bool:
    """Whether it is a block that is never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_of(file: Path) -> Iterator[Import]:
    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(file, node.lineno, name.name, late, name.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            for name in node.names:
                what = f"{node.module}.{name.name}"
                yield Import(file, node.lineno, what, late, str(node.module))
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late)

    yield from visit(ast.parse(file.read_text(), str(file)), late=False)


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def room_imported(what: str) -> str | None:
    """The part of the package that a dotted name lies in; None if it lies in none."""
    package, *names = what.split(".")
    return names[0] if package == PACKAGE.name and names and names[0] in MAY_IMPORT else None


IMPORTS = [
    (room_of(file), found)
    for file in sorted(PACKAGE.rglob("*.py"))
    if file != PACKAGE / "__init__.py"
    for found in imports_of(file)
]


def test_the_imports_are_seen() -> None:
    seen = {(room, found.what) for room, found in IMPORTS}
    assert ("cli", "drsformer_jax.inference.derainer.Derainer") in seen
    assert ("models", "flax.linen") in seen
    assert {room for room, _ in IMPORTS} == MAY_IMPORT.keys()


def test_the_arrows_between_the_rooms_are_obeyed() -> None:
    wrong = []
    for room, found in IMPORTS:
        target = room_imported(found.what)
        if target not in (None, room) and target not in MAY_IMPORT[room]:
            wrong.append(f"{found}, but {room} may import {sorted(MAY_IMPORT[room]) or 'nothing'}")
    assert not wrong, "\n".join(wrong)


def circle_of(files: dict[str, Path]) -> list[str]:
    """Modules that import each other in a circle, inside functions too; none if there is none."""
    graph = {
        module: {name for i in imports_of(file) for name in (i.what, i.module) if name in files}
        for module, file in files.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted(PACKAGE.rglob("*.py"))
    }
    assert circle_of(files) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    texts = {
        "box": "import box.first",
        "box.first": "def f():\n    from box.second import g",
        "box.second": "from box import first\nimport os",
        "box.third": "import box.first",
    }
    files = {}
    for number, (name, text) in enumerate(texts.items()):
        files[name] = tmp_path / f"{number}.py"
        files[name].write_text(text)
    assert {"box.first", "box.second"} <= set(circle_of(files))
    files["box.second"].write_text("import os")
    assert circle_of(files) == []


@pytest.mark.parametrize(
    ("rooms", "forbidden"),
    [
        ({"ops"}, {"flax", "optax", "orbax", "numpy"} | FILE_MODULES),
        ({"models"}, FILE_MODULES | {"optax"}),
        ({"data"}, {"jax", "flax", "optax"}),
        (MAY_IMPORT.keys() - {"cli"}, FLAG_PARSERS),
    ],
    ids=["ops", "models", "data", "flags"],
)
def test_rooms_do_without(rooms: set[str], forbidden: set[str]) -> None:
    wrong = [str(found) for room, found in IMPORTS if room in rooms and found.top in forbidden]
    assert not wrong, "\n".join(wrong)


def test_slow_and_optional_packages_are_imported_late() -> None:
    def is_slow(found: Import) -> bool:
        # Modules named torch_*.py are PyTorch programs, builders classes of TensorFlow Datasets,
        # page handlers of Starlette, film needs PyAV: slow to import themselves, or optional.
        slow_ones = r"drsformer_jax\.(parity\.torch_|datasets\.builders|page\.|film\.)"
        return found.top in LATE or bool(re.match(slow_ones, found.what))

    def may_be_slow(file: Path) -> bool:
        return file.name.startswith("torch_") or file.parent.name in ("builders", "page", "film")

    wrong = [
        str(found)
        for _, found in IMPORTS
        if is_slow(found) and not found.late and not may_be_slow(found.file)
    ]
    assert not wrong, "\n".join(wrong)


def test_import_is_quick_and_light() -> None:
    script = "import sys, drsformer_jax; print(*sys.modules)"
    # The best of three: other programs on the machine must not fail this test.
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
        )
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < 2:
            break
    assert min(seconds) < 2
    modules = set(done.stdout.split())
    assert "drsformer_jax" in modules
    assert not modules & (LATE | {"jax", "flax"})


def test_the_stub_says_what_is_imported_late() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    told = {name.name: node.module for node in imports for name in node.names}
    assert told == drsformer_jax._MODULES
    assert sorted(told) == drsformer_jax.__all__
    assert all(getattr(drsformer_jax, name).__name__ == name for name in told)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_load(name: str) -> None:
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    options = training_options(config)
    assert config.name == name
    assert config.eval.protocol in PROTOCOLS
    assert module.__doc__
    if name != "base":
        command = f"python train.py --config configs/{name}.py --workdir runs/{name}\n"
        assert command in module.__doc__
    schedule = options.optimizer
    assert schedule.hold_steps + schedule.decay_steps == options.total_steps


@pytest.mark.parametrize("name", PAPER_RECIPES)
def test_recipes_are_the_papers(name: str) -> None:
    use_mefc, protocol = PAPER_RECIPES[name]
    config = importlib.import_module(f"configs.{name}").get_config()
    options = training_options(config)
    architecture = PRESETS["drsformer"].architecture() | {"use_mefc": use_mefc}
    assert architecture["dim"] == 48
    assert architecture["num_blocks"] == [4, 6, 6, 8]
    assert options.model.architecture() == architecture
    assert options.stages == (Stage(None, 16, 128),)
    assert options.total_steps == 300_000
    assert options.optimizer == OptimizerOptions(
        learning_rate=3e-4,
        final_learning_rate=1e-6,
        warmup_steps=0,
        hold_steps=92_000,
        decay_steps=208_000,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=1e-4,
        clip_norm=0.01,
    )
    assert (options.accumulation_steps, options.ema_decay, options.mixup) == (1, 0.0, False)
    assert config.data.kind == "folder"
    assert config.eval.protocol == protocol


def names_of(requirements: list[str]) -> set[str]:
    """The packages of requirement lines, in their canonical spelling."""
    lines = [line.partition("#")[0].strip() for line in requirements]
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in lines)
    return {re.sub(r"[-_.]+", "-", name.group()).lower() for name in names if name}


def test_requirements() -> None:
    names = names_of((ROOT / "requirements.txt").read_text().splitlines())
    assert names >= REQUIRED
    heavy = {"torch", "tensorflow", "tensorflow-cpu", "tensorboard", "scikit-image", "matplotlib"}
    assert not names & heavy


def test_project_metadata() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = metadata["project"]
    assert project["name"] == "drsformer_jax"
    assert project["requires-python"] == ">=3.11,<3.14"
    assert project["version"] == drsformer_jax.__version__
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert project["scripts"] == {"drsformer": "drsformer_jax.cli.main:main"}
    extras = {name: names_of(lines) for name, lines in project["optional-dependencies"].items()}
    assert extras["torch"] == {"torch"}
    assert extras["tensorboard"] == {"tensorboardx", "tensorboard"}
    assert extras["serve"] >= {"starlette", "uvicorn"}
    assert extras["video"] == {"av"}
    assert extras["demo"] >= {"scikit-image", "matplotlib"}
    assert extras["dev"] >= {"drsformer-jax", "pytest", "ruff", "mypy", "torch"}


def test_licence_is_the_whole_apache_license() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


@pytest.mark.skipif(os.name != "posix", reason="files have no permission to execute here")
def test_ci_script_can_be_executed() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_names_of_tests_are_unique() -> None:
    """pytest imports them by their last name: of two alike, one would not run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
