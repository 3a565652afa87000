"""Every command that is printed does what is said, typed in a clone by one who has installed us.

The documents are asked for their commands, so that a new one is run, too, or the test fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from reference.basicsr import AuthorsRun  # noqa: E402
from reference.documented_commands import (  # noqa: E402
    commands_in,
    commands_in_docstring,
    commands_in_prose,
    words_of_command,
)
from reference.films import write_film  # noqa: E402
from reference.miniature_sets import clean, rainy, save  # noqa: E402

from drsformer_jax.basicsr.workdir_import import import_run  # noqa: E402
from drsformer_jax.checkpoints.weights import save_weights  # noqa: E402
from drsformer_jax.cli import evaluate, train  # noqa: E402
from drsformer_jax.cli import main as cli  # noqa: E402
from drsformer_jax.cli.experiment_flags import parse_config  # noqa: E402
from drsformer_jax.models.config import PRESETS  # noqa: E402
from drsformer_jax.parity.random_weights import random_weights  # noqa: E402
from drsformer_jax.scores import niqe_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RECIPES = [path for path in sorted((ROOT / "configs").glob("*.py")) if path.stem != "__init__"]
PROGRAMS = [*RECIPES, ROOT / "train.py", ROOT / "eval.py"]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]

# What is done with a command that matches, the first that does. "run": typed; exit code 0, or the
# one that follows with what is then said. "slow": its arguments are read, and it is typed with
# `-m slow` only. "read": its arguments are read, and why no more. "skip": nothing, and why.
RUN, SLOW, READ, SKIP = "run", "slow", "read", "skip"
ELSEWHERE = "installs or starts what a test must not: packages, machines, the suite itself"
HANDLING: list[tuple[str, str, str | tuple[int, str]]] = [
    (r"^drsformer [a-z]+( [a-z]+)?$", READ, "names a subcommand, and gives it nothing to do"),
    (r"^(make|pip|export|gcloud|kubectl|xpk|sbatch|tail|\.venv/bin/ruff) ", SKIP, ELSEWHERE),
    (r"python -m pytest", SKIP, ELSEWHERE),
    (r"^taskset ", SKIP, "trains for hours; without `taskset` it is typed elsewhere"),
    (r"^tools/launch/", SKIP, ELSEWHERE),
    (r" [A-Z] |=[A-Z] |NAME", READ, "a letter stands for the values of a table beside it"),
    (r" --help$", RUN, ""),
    (r"^drsformer models --time$", READ, "restores by every network; tests/cli/test_models.py"),
    (r"hf://|^drsformer push", READ, "asks a hub that a test must start; tests/checkpoints"),
    (r"^drsformer .*--status", SKIP, "tells of a job; tests/cli/test_derain_sharded.py"),
    (
        r"^drsformer .*(--shard|--engine|--job|data merge)",
        READ,
        "wants a job, or begins one; tests/cli/test_derain_sharded.py, tests/jobs",
    ),
    (r"^drsformer (export|derain .*\.onnx)", SLOW, "exports networks; tests/exporting"),
    (r"^drsformer derain .*--devices", SLOW, "compiles the network for four devices"),
    (r"^drsformer derain .*--compare", READ, "as without it; tests/page/test_comparison.py"),
    (
        r"^drsformer derain .*(--skip|--ext|--strip-gps|--no-meta)",
        READ,
        "tests/cli/test_derain_files.py",
    ),
    (r"^drsformer derain ", RUN, ""),
    (r"^drsformer explain ", SLOW, "compiles the network"),
    (r"^drsformer info ", READ, "wants a run, or weights of the user"),
    (r"^drsformer report runs/", READ, "wants a run"),
    (r"^drsformer serve ", READ, "serves until it is interrupted; tests/page"),
    (r"^curl ", SKIP, "asks a server that a test must start; tests/page"),
    (r"^drsformer convert ", RUN, ""),
    (r"drsformer parity .*random:0", READ, "the paper's network takes minutes"),
    (r"^drsformer parity ", SLOW, "compiles two networks"),
    # The miniature has fewer pairs than the set.
    (r"^drsformer data verify ", RUN, (1, "number of pairs")),
    (r"^drsformer data build ", READ, "wants all pairs of the set"),
    (r"^drsformer data make-rain ", RUN, ""),
    # Asked for after the configuration has been read; the tests keep it out.
    (r"^drsformer plan --selfcheck", SLOW, "interprets every kernel"),
    (r"^drsformer plan .*--topology", RUN, (2, "libtpu, the compiler for TPUs, is not installed")),
    (r"^drsformer plan ", SLOW, "compiles a training step"),
    (r"^drsformer models$", RUN, ""),
    (r"^drsformer score ", RUN, ""),
    (r"^python tools/estimate_niqe_model", READ, "wants hundreds of sharp blocks"),
    (r"^python (train|eval)\.py .*gs://", READ, "a bucket that a test must serve; test_buckets.py"),
    (r"^python (train|eval)\.py .*(/data/|/shared/|records)", READ, "folders outside of the clone"),
    (r"^python (train|eval)\.py .*\.\.\.", READ, "dots stand for the flags above"),
    (r"^python (train|eval)\.py ", SLOW, "trains and scores a network, if a tiny one"),
    (r"python (tools/|-m benchmarks\.)", READ, "takes minutes; tests/tools, tests/benchmarks"),
]

# Makes a run of training short, and what it trains tiny; the data are those of `lay_out`.
SHORT = " --config." + " --config.".join(
    [
        *("model.preset=tiny", "total_steps=1", "global_batch=1", "patch_size=64"),
        *("data.train=DATA/Rain200H/train", "data.val=DATA/Rain200H/test", "data.kind=folder"),
    ]
)


# What has happened in the text before a command, and not in the test.
BETWEEN: dict[str, Callable[[Path], object]] = {
    "drsformer convert runs/rain200h 150000.state": lambda clone: shutil.copytree(
        clone / "runs" / "later", clone / "runs" / "rain200h", dirs_exist_ok=True
    ),
    "drsformer export runs/rain200h rain.stablehlo": lambda clone: shutil.copytree(
        clone / "runs" / "later", clone / "runs" / "rain200h", dirs_exist_ok=True
    ),
    "drsformer convert drsformer_jax/weights/rain_compact.safetensors W": lambda clone: (
        shutil.rmtree(clone / "W")
    ),
}


def handling(command: str) -> tuple[str, str | tuple[int, str]]:
    for pattern, how, detail in HANDLING:
        if re.search(pattern, f"{command} " if pattern.endswith(" ") else command):
            return how, detail
    raise AssertionError(f"`{command}` is documented, and HANDLING does not say how it is tested")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A clone, and the environment of one who has installed the package and stands in it."""
    base = tmp_path_factory.mktemp("installed")
    clone, programs, site = base / "clone", base / "bin", base / "site"
    for folder in (clone, programs, site):
        folder.mkdir()
    for name in ("drsformer_jax", "configs", "tools", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "eval.py"):
        shutil.copy(ROOT / name, clone)
    # The package alone is found everywhere, as after `pip install .`; of the checkout nothing.
    (site / "drsformer_jax").symlink_to(clone / "drsformer_jax")
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['libtpu'] = None\n")
    script = (
        f"#!{sys.executable}\nimport sys\nfrom drsformer_jax.cli.main import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    (programs / "drsformer").write_text(script)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    lay_out(clone)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "JAX_PLATFORMS": "cpu",
        "D": "DATA",
    }
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(base / "cache"))
    environment.pop("JAX_ENABLE_COMPILATION_CACHE", None)  # conftest.py forbids the developer's
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    return clone, environment


def lay_out(at: Path) -> None:
    """Tiny inputs under the names that the documents use.

    All pictures have one size, and all weights are of one network, those of the package's names,
    too: what one command compiles, the next one takes from the cache.
    """
    for packaged in (at / "drsformer_jax" / "weights").iterdir():
        save_weights(packaged, random_weights(PRESETS["tiny"], 3))
    pictures = [clean(i, 104, 192) for i in range(2)]
    wet = [rainy(picture, i) for i, picture in enumerate(pictures)]
    for name in ("photo.jpg", "photo.png", "huge.tif", "b.png", "holiday/1.jpg", "more/2.jpg"):
        save(at / name, wet[0])
    save(at / "a.png", pictures[0])
    for name in ("clip.mp4", "clip2.mov"):
        write_film(at / name, frames=2, size=(104, 192))
    # Of the names that `drsformer derain` gives to the two photographs.
    for folder in ("derained", "rainy", "ours", "other", "targets", "photographs", "CLEAN_DIR"):
        of = wet if folder in ("derained", "rainy", "ours", "other") else pictures
        for name, picture in zip(("photo.png", "huge.png"), of, strict=True):
            save(at / folder / name, picture)
    for folder in ("median", "drsformer"):
        for i, picture in enumerate(wet):
            save(at / folder / f"{i}.png", picture)
    for data_set in ("rain100l", "Rain200H", "DID"):
        for split in ("train", "test", "val"):
            for i, picture in enumerate(pictures):
                save(at / "DATA" / data_set / split / "input" / f"{i}.png", wet[i])
                save(at / "DATA" / data_set / split / "target" / f"{i}.png", picture)
    run = AuthorsRun()
    run.step()
    (at / "runs").mkdir()
    for iteration, workdir in ((150_000, "later"), (92_000, "rain100l")):
        run.iteration, run.schedule.last_epoch = iteration, iteration - 1
        state = run.save(at / "experiments" / "R")
        import_run(state, None, at / "runs" / workdir, force=False)
    for name in ("authors.pth", "net_g.pth"):
        shutil.copy(at / "experiments" / "R" / "models" / "net_g_92000.pth", at / name)
    for name in ("arch.py", "DRSformer_arch.py"):
        shutil.copy(at / "drsformer_jax" / "parity" / "torch_drsformer.py", at / name)
    shutil.copytree(at / "runs" / "rain100l", at / "W")
    shutil.copy(at / "configs" / "demo.py", at / "C")
    niqe_model.save(at / "model.safetensors", niqe_model.packaged())


def type_in(command: str, clone: Path, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=clone, env=environment, capture_output=True, text=True, timeout=1800,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout[-1500:] + done.stderr[-1500:]


def read(command: str, clone: Path) -> None:
    """Reads the arguments as the program does; raises what it would."""
    words = [word for word in words_of_command(command) if word != "..."]
    program, rest = Path(words[0]).name, words[1:]
    if program == "drsformer":
        _read_arguments([re.sub(r"^\[|\]$", "", word) for word in rest])
    elif rest[0] in ("train.py", "eval.py"):
        if "--config" not in rest:
            rest += ["--config", "configs/demo.py", "--workdir", "W"]
        program = train if rest[0] == "train.py" else evaluate
        assert program.parse_flags(rest, "") is not None
    else:
        module = rest[1].replace(".", "/") + ".py" if rest[0] == "-m" else rest[0]
        assert "NAME" in module or (clone / module).is_file(), module
        # A flag may be of a module that several programs share.
        text = "".join(path.read_text() for path in (clone / module).parent.glob("*.py"))
        missing = [word for word in rest if word.startswith("--") and f'"{word}"' not in text]
        assert not missing, f"{module} has no {missing}"


def _read_arguments(arguments: list[str]) -> None:
    if not any(word.startswith("-") for word in arguments):
        assert arguments[0] in cli.COMMANDS, arguments
        return
    # Letters in the place of choices and numbers.
    stand_ins = {"P": "tiny", "D": "float32", "B": "16"}
    words = [stand_ins.get(word, word) for word in arguments]
    parsed, others = cli._build_parser(words).parse_known_args(words)
    if getattr(parsed, "config", None) is not None:
        parse_config([f"--config={parsed.config}", *others])
    else:
        assert not [word for word in others if word.startswith("-")], others


def check(
    commands: list[str], clone: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs or reads the commands in their order."""
    monkeypatch.chdir(clone)
    faults = []
    for command in dict.fromkeys(commands):
        how, detail = handling(command)
        if how == RUN:
            BETWEEN.get(command, lambda clone: None)(clone)
            code, told = type_in(command, clone, environment)
            expected, words = detail if isinstance(detail, tuple) else (0, "")
            if code != expected or words not in told or "Traceback" in told:
                faults.append(f"$ {command}\nexit code {code}\n{told}")
        elif how in (READ, SLOW):
            try:
                read(command, clone)
            except (Exception, SystemExit) as error:
                faults.append(f"$ {command}\n{type(error).__name__}: {error}")
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_documents(document: str, installed, monkeypatch, tmp_path) -> None:
    clone = tmp_path / "clone"  # what one document's commands write is not there for another's
    shutil.copytree(installed[0], clone)
    commands = commands_in((ROOT / document).read_text())
    if document == "README.md":  # what a page of docs/ says, too, is typed with that page
        pages = {name for page in ROOT.glob("docs/*.md") for name in commands_in(page.read_text())}
        commands = [command for command in commands if command not in pages]
    check(commands, clone, installed[1], monkeypatch)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_commands_of_docstrings(program: Path, installed, monkeypatch) -> None:
    commands = commands_in_docstring(program)
    assert commands
    check(commands, *installed, monkeypatch)


SUBCOMMANDS = [
    *("", *cli.COMMANDS),
    *("data verify", "data build", "data merge", "data make-rain"),
]


def test_helps_and_their_commands(installed, monkeypatch, capsys) -> None:
    clone, environment = installed
    for subcommand in SUBCOMMANDS:
        assert cli.main([*subcommand.split(), "--help"]) == 0
    check(commands_in_prose(capsys.readouterr().out), clone, environment, monkeypatch)
    for program in ("drsformer", "python train.py", "python eval.py"):
        code, told = type_in(f"{program} --help", clone, environment)
        assert (code, "Traceback" in told) == (0, False), told


def test_the_console_script_finds_no_checkout_by_itself(installed) -> None:
    """Else the other tests could not tell whether a configuration is loaded by its path."""
    clone, environment = installed
    probe = clone.parent / "bin" / "probe"
    probe.write_text(f"#!{sys.executable}\nimport configs\n")
    probe.chmod(0o755)
    _, told = type_in("probe", clone, environment)
    assert "No module named 'configs'" in told


SLOW_ONES = [
    command
    for document in DOCUMENTS
    for command in commands_in((ROOT / document).read_text())
    if handling(command)[0] == SLOW
]
SLOW_ONES += [
    command
    for program in PROGRAMS
    for command in commands_in_docstring(program)
    if handling(command)[0] == SLOW
]


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(SLOW_ONES))
def test_slow_commands(command: str, installed) -> None:
    clone, environment = installed
    if found := re.search(r"^python (train|eval)\.py .*--workdir (\S+)", command):
        workdir = clone / found[2]
        if found[1] == "train":
            shutil.rmtree(workdir, ignore_errors=True)
        elif not workdir.exists():
            shutil.copytree(clone / "W", workdir)
        command += SHORT
    if found := re.search(r"^drsformer export \S+ (\S+)", command):
        (clone / found[1]).unlink(missing_ok=True)  # several commands write it
    BETWEEN.get(command, lambda clone: None)(clone)
    code, told = type_in(command, clone, environment)
    assert (code, "Traceback" in told) == (0, False), told


def test_a_command_that_nobody_has_thought_of_is_a_fault() -> None:
    with pytest.raises(AssertionError, match="does not say how it is tested"):
        handling("drsformer paint a.png")
