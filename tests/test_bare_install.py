"""An engine runs with the base install's packages alone, in an interpreter that sees nothing else.

The environment is a folder of links to the installed files of these packages and of what they
require, so that no network is needed; `.ci/bare-install` does it with a real install.
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from tiny_engine import write_tiny_engine

import vq4dit

ROOT = Path(__file__).parent.parent
FOLDERS = ("calibrate", "demo", "engines", "export", "plugins", "runtime")

#: Top-level packages that a base install must not need.
ABSENT = ("torch", "onnx", "scipy", "diffusers", "matplotlib", "tensorrt", "pytest", "pip")

PROGRAM = """
import json, sys
from vq4dit import Pipeline, save_grid
with Pipeline(sys.argv[1], threads=1, verify=True) as pipeline:
    options = {"labels": [3, "class 1"], "steps": 3, "sampler": "ddpm", "seed": 7}
    images = pipeline(**options)
    save_grid(sys.argv[2], images, pipeline.describe(**options))
found = []
for name in sys.argv[3].split(","):
    try:
        __import__(name)
        found.append(name)
    except ImportError:
        pass
print(json.dumps({"shape": images.shape, "found": found, "sum": int(images.sum())}))
"""


def _requirements():
    """Names of the distributions of the base install, from the metadata; ours is not in it."""
    found, queue = set(), ["vq4dit"]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found.add(name)
        for requirement in distribution(name).requires or []:
            marker = requirement.partition(";")[2]
            if "extra" not in marker and "win" not in marker.lower():
                queue.append(re.split(r"[\s<>=!~;\[(]", requirement)[0].lower())
    return found - {"vq4dit"}


def _link(source: Path, target: Path):
    if not target.exists():
        target.symlink_to(source)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder with the base install: vq4dit from this checkout, the others as installed."""
    site = tmp_path_factory.mktemp("bare")
    for name in _requirements():
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__"):
                _link(Path(str(distribution(name).locate_file(top))), site / top)
    package = site / "vq4dit"
    package.mkdir()
    for path in (ROOT / "src" / "vq4dit").iterdir():
        _link(path, package / path.name)
    for name in FOLDERS:
        _link(ROOT / name, package / name)
    return site


def _run(site, *arguments):
    """A Python that finds the standard library and this folder only."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(site)
    command = [sys.executable, "-S", "-s", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=site, env=environment)


def test_base_install_is_small():
    direct = {re.split(r"[\s<>=!~;\[(]", r)[0].lower() for r in distribution("vq4dit").requires
              if "extra ==" not in r}  # fmt: skip
    assert direct == {"numpy", "onnxruntime", "pillow", "safetensors", "tqdm"}


def test_an_engine_runs_with_nothing_else_installed(bare, tmp_path):
    write_tiny_engine(tmp_path / "tiny")
    done = _run(bare, "-c", PROGRAM, str(tmp_path / "tiny"), str(tmp_path / "a.png"),
                ",".join(ABSENT))  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    with vq4dit.Pipeline(tmp_path / "tiny", threads=1) as pipeline:
        expected = pipeline([3, 1], steps=3, sampler="ddpm", seed=7)
    assert told == {"shape": list(expected.shape), "found": [], "sum": int(expected.sum())}
    assert (tmp_path / "a.png").stat().st_size > 0


def test_the_command_line_draws_and_says_what_is_missing(bare, tmp_path):
    write_tiny_engine(tmp_path / "tiny")
    done = _run(bare, "-m", "vq4dit", "sample", str(tmp_path / "tiny"), "-o",
                str(tmp_path / "a.png"), "--labels", "0,1", "--steps", "2", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_images"] == 2
    done = _run(bare, "-m", "vq4dit", "calibrate", str(tmp_path / "x.pt"), "-o",
                str(tmp_path / "x.vq.safetensors"))  # fmt: skip
    assert done.returncode == 1
    assert "vq4dit[calibrate]" in done.stderr and "Traceback" not in done.stderr
