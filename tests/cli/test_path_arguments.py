"""Every path of every command: ~ is the home folder, and an address is refused before anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from drsformer_jax.cli import evaluate, train
from drsformer_jax.cli import main as cli

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "demo.py")
COMPACT = CONFIG.replace("demo", "compact")
PLAN = f"plan --config {CONFIG} --device cpu"

# PATH stands for the one in question.
COMMANDS = [
    "derain PATH",
    "derain x.png -o PATH",
    "derain x.png --output=PATH",
    "derain x.png --weights PATH",
    "convert PATH x",
    "convert x.pth PATH",
    "convert x.state run --network=PATH",
    "parity --weights PATH",
    "parity --weights random:0 --image PATH",
    "parity --weights random:0 --json=PATH",
    "parity --weights random:0 --reference PATH/arch.py:Net",
    "data verify PATH",
    "data verify x --json=PATH",
    "data build rain200l PATH x",
    "data build rain200l x PATH",
    "data make-rain PATH x",
    "data make-rain x PATH",
    "score PATH x --protocol rain200",
    "score ours=PATH x --protocol rain200",
    "score . PATH --protocol rain200",
    "score . . . --protocol rain200 PATH",
    "score . . --protocol rain200 --json=PATH",
    "score . . --protocol rain200 --csv PATH",
    "score . --no-reference niqe --niqe-model PATH",
    "plan --config PATH --device cpu",
    "plan --config=PATH --device cpu",
    f"{PLAN} --json=PATH",
    f"{PLAN} --config.data.train=PATH",
    f"{PLAN} --config.init=PATH",
]
EXPERIMENTS = [
    "train --config PATH --workdir run",
    "train --config=PATH --workdir run",
    f"train --config {CONFIG} --workdir=PATH",
    f"train --config {CONFIG} --workdir run --config.data.train=PATH",
    f"train --config {CONFIG} --workdir run --config.data.val=PATH",
    f"train --config {CONFIG} --workdir run --config.init=PATH",
    f"train --config {COMPACT} --workdir run --config.data.rain.heavy=('.','PATH')",
    f"evaluate --config {CONFIG} --workdir PATH",
    f"evaluate --config {CONFIG} --workdir run --set ours=PATH",
    f"evaluate --config {CONFIG} --workdir run --config.data.val=PATH",
]


# These may be in a bucket.
TAKE_BUCKETS = (
    *("-o PATH", "--output=PATH", "--weights PATH", "convert PATH", "--csv PATH"),
    *("rain200 --json=PATH", "data.train=PATH", "data.val=PATH", "init=PATH", "--workdir=PATH"),
    *("--workdir PATH", "--set ours=PATH", "'PATH')"),
)


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        (typed, address)
        for typed in COMMANDS + EXPERIMENTS
        for address in ("s3://bucket/x", "gs://bucket/x")
        if address[0] == "s" or not any(end in typed for end in TAKE_BUCKETS)
    ],
)
def test_an_address_is_refused_in_one_line(
    typed: str,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.replace("PATH", address) for word in typed.split()]
    if typed in COMMANDS:
        assert cli.main(words) == 2
    else:
        program = train if words[0] == "train" else evaluate
        assert program.run(words, "") == 2
    printed = capsys.readouterr()
    assert address in printed.err
    assert "is an address" in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def is_parsed(typed: str) -> bool:
    """Whether the parser sees the path; the folders of score and configurations are read later."""
    command, path = typed.split()[0], typed.partition("PATH")[0]
    return command not in ("score", "plan") or path.split()[-1].startswith(("--json", "--csv"))


@pytest.mark.parametrize("typed", list(filter(is_parsed, COMMANDS)))
def test_home(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [word.replace("PATH", "~/x") for word in typed.split()]
    arguments = cli._build_parser(words).parse_known_args(words)[0]
    found = str(vars(arguments))
    assert f"{tmp_path}/x" in found
    assert "~" not in found


@pytest.mark.parametrize("typed", ["~/x .", "ours=~/x .", ". ~/x", ". . ~/x"])
def test_home_in_the_folders_of_score(
    typed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["score", *typed.split(), "--protocol", "rain200"]) == 2
    assert f"{tmp_path}/x: no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize("config", [["--config=~/demo.py"], ["--config", "~/demo.py"]])
def test_home_in_the_flags_of_experiments(
    config: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "demo.py").write_text(Path(CONFIG).read_text())
    argv = ["eval.py", *config, "--workdir=~/run", "--set=a=~/set", "--config.seed=7"]
    given = evaluate.parse_flags(argv, "")
    assert given is not None
    assert (given.workdir, given.config.seed) == (tmp_path / "run", 7)
    assert given.sets == (("a", tmp_path / "set"),)
