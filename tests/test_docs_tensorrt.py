"""docs/tensorrt.md: its commands parse, its options and file names exist."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from vq4dit import cli
from vq4dit.accounting import config_from_preset
from vq4dit.engines.plan_engine import step_profile
from vq4dit.plugins.tensorrt.embed import CPP_FOLDER

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tensorrt.md").read_text(encoding="utf-8")


def commands(program):
    """Arguments of the commands of a program in the code blocks, with settings before it cut."""
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    words = [[w for i, w in enumerate(ws) if i or not re.match(r"[A-Z0-9_]+=", w)] for ws in words]
    start = shlex.split(program)
    return [ws[len(start) :] for ws in words if ws[: len(start)] == start]


VQ4DIT = commands("vq4dit")


def test_there_are_commands():
    assert {arguments[0] for arguments in VQ4DIT} >= {"build", "export", "verify", "profile"}
    assert len(commands("cmake")) >= 3


@pytest.mark.parametrize("arguments", VQ4DIT, ids=" ".join)
def test_commands_parse(arguments):
    parsed = cli._parser(arguments).parse_args(arguments)
    assert parsed.command == arguments[0]


def test_cmake_options_are_those_of_the_project():
    """Every option that a user sets is in the table, and nothing else is."""
    project = (CPP_FOLDER / "CMakeLists.txt").read_text()
    known = set(re.findall(r"^set\((\w+) \"[^\"]*\" CACHE", project, re.M))
    known |= set(re.findall(r"^option\((\w+)", project, re.M)) - {"VQ4DIT_WERROR"}
    known |= {"VQ4DIT_SM"}
    rows = re.findall(r"^\| (`[A-Z0-9_`, ]+`) \| ", TEXT, re.M)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told == known
    used = re.findall(r"-D(\w+)=", TEXT)
    assert used and set(used) <= known


def test_shapes_for_trtexec_are_those_of_the_step_model():
    """Every input of DiT-XL/2 in every list of shapes, as the builder's own profile has them."""
    profile = step_profile(config_from_preset("DiT-XL/2"), (1, 8, 8))
    build, run = commands("trtexec")
    lists = dict(word.split("=", 1) for word in (*build, *run) if "hapes=" in word)
    assert list(lists) == ["--minShapes", "--optShapes", "--maxShapes", "--shapes"]
    for (option, text), place in zip(lists.items(), (0, 1, 2, 2), strict=True):
        told = dict(part.split(":") for part in text.split(","))
        wanted = {name: "x".join(map(str, shapes[place])) for name, shapes in profile.items()}
        assert told == wanted, option


def test_triton_is_told_every_tensor():
    """Name, type and dimensions behind the batch; no dimension of one number is a reshape."""
    row = r'name: "(\w+)"\s+data_type: TYPE_(\w+)\s+dims: \[ ([\d, ]+) \]\s+(reshape)?'
    told = {name: (kind, dims, bool(r)) for name, kind, dims, r in re.findall(row, TEXT)}
    profile = step_profile(config_from_preset("DiT-XL/2"), (1, 8, 8))
    wanted = {
        name: ("INT64" if name == "label" else "FP32",
               ", ".join(map(str, shape[1:])) or "1", not shape[1:])
        for name, (shape, _, _) in profile.items()
    }  # fmt: skip
    image = wanted["latent"]
    assert told == wanted | {"latent_out": image, "x_start": image}


def test_acceptance_commands_parse(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_acceptance

    found = commands("python benchmarks/gpu_acceptance.py")
    assert [arguments[0] for arguments in found] == ["prepare", "run", "run"]
    for arguments in found:
        monkeypatch.setattr(sys, "argv", ["gpu_acceptance.py", *arguments])
        assert gpu_acceptance._arguments().command == arguments[0]


def test_messages_are_those_of_the_code():
    """The longest piece of each between two names or numbers stands in one of the sources."""
    folders = (ROOT / "plugins" / "tensorrt", ROOT / "runtime")
    files = [f for folder in folders for f in folder.rglob("*") if f.suffix in (".py", ".cc")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    code = re.sub(r'"\s*(?:\+\s*)?\n\s*f?"', "", code)  # one text over several lines
    table = TEXT.split("## What can go wrong")[1].split("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert len(messages) >= 9
    names = r"\b(?:[XYN]|rows|FLOAT|mma_lanes|CodebookGemm|tensorrt)\b|\w*\.\.\.|sm_\w+|vq4dit_"
    for message in messages:
        longest = max(re.split(names, message), key=len).strip(" (")
        is_tensorrts = longest.startswith("Plugin not found")
        assert is_tensorrts or longest.removesuffix("cudaErrorInsufficientDriver)") in code, longest


def test_links_lead_to_files():
    paths = re.findall(r"`((?:docs|benchmarks|plugins)/[\w./]+)`", TEXT)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
