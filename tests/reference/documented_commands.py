"""The commands that the documents, the helps and the recipes print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

PROGRAMS = (
    r"(?:\.venv/bin/)?(?:drsformer|python|pip|ruff)|make|tools/launch/\w+\.sh|gcloud|kubectl|xpk|"
    r"sbatch|tail|export"
)
# In running text, where a name alone is no command.
_INLINE = re.compile(rf"`((?:{PROGRAMS}) [^`]+)`")
_LINE = re.compile(rf"(?:{PROGRAMS}) \S")


def commands_in(text: str) -> list[str]:
    """The commands of a Markdown document, in order.

    Lines of fenced blocks that name a shell or show a prompt, indented lines that begin with the
    name of a program, and spans of code in the text. Comments are taken off, continued lines put
    together.
    """
    text = text.replace("\\\n", "")
    found: list[str] = []
    prose: list[str] = []
    fence: str | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            fence = line[3:].strip() if fence is None else None
        elif fence == "sh" or line.startswith("$ "):
            found += [command for command in [_without_comment(line.removeprefix("$ "))] if command]
        elif fence is None and re.match(r"    (?! )", line) and _LINE.match(line.strip()):
            # Tables of results begin with names of programs, too.
            if not re.search(r"  +[-+]?\d+\.\d", line):
                found.append(_without_comment(line))
        elif fence is None:
            prose.append(line)
    return found + commands_in_prose("\n".join(prose))


def commands_in_prose(text: str) -> list[str]:
    """The commands in spans of code, which may go over the end of a line."""
    return [" ".join(span.split()) for span in _INLINE.findall(text)]


def commands_in_docstring(file: Path) -> list[str]:
    """The commands in the docstring that a Python file begins with."""
    text = file.read_text().split('"""')[1]
    lines = [line.strip() for line in text.replace("\\\n", "").splitlines()]
    return [_without_comment(x) for x in lines if _LINE.match(x)] + commands_in_prose(text)


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line).strip()


def words_of_command(command: str) -> list[str]:
    """Program and arguments; variables of the shell stay as they are."""
    return shlex.split(command)
