"""The commands of README.md and docs/ exist: subcommands, options, choices, make targets.

They are parsed, not run. Shell blocks are those fenced with ```sh or ```bash; one that is marked
<!-- not checked --> in the line above is left out.
"""

import re
import shlex
from pathlib import Path

import pytest

from vq4dit import cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(?m)^(<!-- not checked -->\n)?```(?:sh|bash)\n(.*?)^```", re.DOTALL)
_TARGET = re.compile(r"(?m)^([a-z][a-z-]*):")


def commands(text):
    """Words of every command in the shell blocks of a document."""
    found = []
    for marker, block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s(?:\||&&|;|>)\s|;\s", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                if words and not marker:
                    found.append(words)
    return found


def documented(program):
    return [
        pytest.param(words[1:], id=f"{path.name}: {' '.join(words)}"[:80])
        for path in DOCUMENTS
        for words in commands(path.read_text(encoding="utf-8"))
        if words[0] == program
    ]


def parse(arguments):
    return cli._parser(arguments).parse_args(arguments)


@pytest.mark.parametrize("arguments", documented("vq4dit"))
def test_documented_commands_exist(arguments):
    assert parse(arguments).command in cli.COMMANDS


@pytest.mark.parametrize("arguments", documented("make"))
def test_documented_make_targets_exist(arguments):
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    wanted = {word for word in arguments if "=" not in word}
    assert wanted <= targets


@pytest.mark.parametrize("target", ["demo", "test"])
def test_readme_tells_the_two_commands(target):
    words = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert ["make", target] in words


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_a_help_text(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse([command, "--help"])
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_commands_are_found_in_shell_blocks():
    text = (
        "```sh\n$ make demo  # all of it\nvq4dit build a.pt \\\n  -o b | tee log\n```\n"
        "```python\nvq4dit x\n```\n<!-- not checked -->\n```bash\nvq4dit y\n```\n"
    )
    assert commands(text) == [
        ["make", "demo"], ["vq4dit", "build", "a.pt", "-o", "b"], ["tee", "log"],
    ]  # fmt: skip


def test_an_unknown_option_is_found(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["inspect", "x", "--no-such-option"])
    assert stopped.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err
