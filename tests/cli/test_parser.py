"""What may have been meant, examples that work, and the script that completes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from drsformer_jax.cli import main as cli


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("derian photo.jpg", "(did you mean derain?)"),
        ("data veryfy DATA", "(did you mean verify?)"),
        ("derain photo.jpg --wieghts w", "(did you mean --weights?)"),
        ("data verify DATA --jsn=x", "(did you mean --json?)"),
        ("models --nothing-like-it", "arguments: --nothing-like-it\n"),
        (
            "derain HERE/phto.jpg",
            "HERE/phto.jpg: no such file or folder (did you mean HERE/photo.j",
        ),
        ("derain HERE/photo.jpg --weights rain_smal", "(did you mean rain_small?)"),
        ("data make-rain HERE OUT --seed=--", "argument --seed: -- is no value"),
        ("info --json=--", "argument --json: -- is no value"),
        ("plan --device cpu --config HERE/demoo.py", "(did you mean HERE/demo.py?)"),
    ],
)
def test_the_likeliest_word_is_named(
    typed: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("photo.jpg", "demo.py"):
        (tmp_path / name).touch()
    assert cli.main(typed.replace("HERE", str(tmp_path)).split()) == 2
    assert meant in capsys.readouterr().err.replace(str(tmp_path), "HERE")


def test_every_command_shows_examples_that_it_understands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = cli.whole_parser()
    for name, command in cli.COMMANDS.items():
        assert command.examples
        for example in command.examples:
            words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'), comments=True)
            if words[0] == "drsformer":
                parsed, unknown = parser.parse_known_args(words[1:])
                assert words[1] == name
                assert not unknown
                assert parsed.run
    assert cli.main(["models", "--help"]) == 0
    assert "\nexamples:\n  drsformer models --time" in capsys.readouterr().out


def test_the_script_completes_in_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(
        capsys.readouterr().out + "\nCOMP_WORDS=(drsformer derain --wei); COMP_CWORD=2"
        '\n_shtab_drsformer; echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["--weights"]
    assert done.stderr == ""
