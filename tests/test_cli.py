"""The command line itself: exit codes, one-line errors, a reader that stops early."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vq4dit import cli
from vq4dit.errors import ArtifactError, OptionError


def _command(monkeypatch, run):
    """Let `vq4dit doctor` run something else."""
    from vq4dit.commands import doctor

    monkeypatch.setattr(doctor, "run", run)
    return cli.main(["doctor"])


def _raise(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ArtifactError("x.pt: is damaged"), 1),
        (OSError("disk"), 1),
        (OptionError("steps is 0"), 2),
        (KeyboardInterrupt(), 1),
    ],
)
def test_errors_are_one_line_and_an_exit_code(monkeypatch, capsys, error, code):
    assert _command(monkeypatch, _raise(error)) == code
    text = capsys.readouterr().err
    assert text.startswith("vq4dit doctor: ")
    assert text.count("\n") == 1


def test_debug_shows_the_trace(monkeypatch):
    from vq4dit.commands import doctor

    monkeypatch.setattr(doctor, "run", _raise(ArtifactError("x")))
    with pytest.raises(ArtifactError):
        cli.main(["doctor", "--debug"])


def test_a_bug_is_not_hidden(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        _command(monkeypatch, _raise(ZeroDivisionError()))


def test_failed_checks_are_exit_code_1(monkeypatch):
    assert _command(monkeypatch, lambda args: {"ok": False}) == 1
    assert _command(monkeypatch, lambda args: {"ok": True}) == 0


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["sample"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: vq4dit" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_stops_early_is_no_error(options):
    arguments = ["inspect", "--shapes", "DiT-XL/2", *options]
    program = f"import sys; from vq4dit.cli import main; sys.exit(main({arguments!r}))"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdout.close()
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait() == 1


def test_help_imports_no_command():
    program = (
        "import sys\nfrom vq4dit.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('vq4dit.commands.') or m == 'numpy'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
