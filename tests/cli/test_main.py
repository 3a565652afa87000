"""The entry point: quick to help, exit codes, no traceback for a user's mistake."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import drsformer_jax
from drsformer_jax.cli import main as cli
from drsformer_jax.errors import UserError

HEAVY = ("tensorflow", "torch", "tensorflow_datasets", "grain", "jax", "flax")
PROGRAM = (sys.executable, "-m", "drsformer_jax.cli.main")


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """Makes `drsformer probe` a subcommand that runs the function given."""

    def install(action: Callable[[], int]) -> None:
        module = types.ModuleType("probe_command")
        module.add_arguments = lambda parser: parser.add_argument("--flag")
        module.run = lambda args: action()
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("probe_command", "probe"))

    return install


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"]])
def test_help_is_quick_and_light(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "drsformer_jax.cli.main", *arguments]
    # The best of three: other programs on the machine must not fail this test.
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < 2:
            break
    assert min(seconds) < 2
    assert "usage: drsformer" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & set(HEAVY)


def test_help_lists_the_commands_without_importing_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("no_such_module", "a broken one"))
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in printed
        assert command.summary in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"drsformer {drsformer_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["rain"], "invalid choice: 'rain'"),
        (["--rain"], "required: COMMAND"),
        (["score"], "required: RESULTS ... TARGETS"),
        (["score", "a", "b", "--protocol", "ssim"], "invalid choice: 'ssim'"),
    ],
)
def test_usage_errors(arguments: list[str], complaint: str) -> None:
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "usage: drsformer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_exit_code_of_the_subcommand(probe, code: int) -> None:
    probe(lambda: code)
    assert cli.main(["probe", "--flag", "x"]) == code


def test_a_users_mistake_is_one_line(probe, capsys: pytest.CaptureFixture[str]) -> None:
    probe(raising(UserError("photo.jpg: no such file")))
    assert cli.main(["probe"]) == 2
    printed = capsys.readouterr()
    assert printed.err == "drsformer: error: photo.jpg: no such file\n"
    assert printed.out == ""


def test_our_own_mistakes_are_not_hidden(probe) -> None:
    probe(raising(RuntimeError("bug")))
    with pytest.raises(RuntimeError, match="bug"):
        cli.main(["probe"])


def test_interrupt_is_quiet(probe, capsys: pytest.CaptureFixture[str]) -> None:
    probe(raising(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == ""


def test_an_interrupted_program_ends_without_waiting_for_threads(
    probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(raising(KeyboardInterrupt()))
    monkeypatch.setattr(sys, "argv", ["drsformer", "probe"])
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    cli.main()
    assert ended == [130]


def test_arguments_come_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["drsformer", "--version"])
    assert cli.main() == 0


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """As with `drsformer ... | head`: the pipe is closed before the output is written."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, types\n"
        "from drsformer_jax.cli import main as cli\n"
        "module = types.ModuleType('chatty')\n"
        "module.add_arguments = lambda parser: None\n"
        "module.run = lambda args: print('x' * 10) or 0\n"
        "sys.modules['chatty'] = module\n"
        "cli.COMMANDS['chatty'] = cli.Command('chatty', 'prints')\n"
        "sys.exit(cli.main(['chatty']))\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    # Buffered, as by default: then it is the last flush that finds the pipe closed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    root = Path(drsformer_jax.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, program],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**environment, "PYTHONPATH": str(root)},
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_too_little_memory(
    probe: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> int:
        raise MemoryError("Unable to allocate 9 TiB")

    probe(full)
    assert cli.main(["probe"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("drsformer: error: this machine's memory is not enough (Unable to")
    assert told.count("\n") == 1


def test_a_name_with_a_line_break_is_told_in_one_line(
    probe: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def mistaken() -> int:
        raise UserError("a\nb\x1b.png: no such file")

    probe(mistaken)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "drsformer: error: a\\nb\\x1b.png: no such file\n"


def test_what_the_system_keeps_from_us(
    probe: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def kept() -> int:
        raise PermissionError(13, "Permission denied", "set/train")

    probe(kept)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err.startswith("drsformer: error: set/train: permission denied: ")
