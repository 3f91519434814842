"""`vq4dit evaluate`: names, table, files."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_engine import write_tiny_engine

from vq4dit.cli import main
from vq4dit.commands.evaluate import named_engines
from vq4dit.errors import OptionError

FEW = ["--num-images", "20", "--steps", "2", "--threads", "1", "--quiet"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    for name in ("fp", "kmeans"):
        write_tiny_engine(folder / name)
    return folder


def test_json_goes_to_stdout_and_to_the_file(engines, tmp_path, capsys):
    arguments = [str(engines / "kmeans"), "--reference", str(engines / "fp"), "-o", str(tmp_path)]
    assert main(["evaluate", *arguments, *FEW, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    files = values.pop("files")
    assert json.loads((tmp_path / "metrics.json").read_text()) == values
    assert values["calibrated"]["diversity"] == 1
    assert files == {
        "metrics": str(tmp_path / "metrics.json"),
        "comparison": str(tmp_path / "comparison.png"),
    }
    with Image.open(tmp_path / "comparison.png") as picture:
        assert np.asarray(picture).shape[0] > 2 * 96


def test_table_fits_a_terminal(engines, tmp_path, capsys):
    named = [f"kmeans={engines / 'kmeans'}", f"a-very-long-engine-name={engines / 'kmeans'}"]
    arguments = ["--reference", str(engines / "fp"), "-o", str(tmp_path / "new")]
    assert main(["evaluate", *named, *arguments, *FEW]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["fp", "kmeans", "a-very-long-e"]
    assert max(map(len, lines[:6])) <= 80
    assert lines[5] == "20 pictures, 2 DDIM steps, cfg 2"


def test_engines_are_named_after_their_directories():
    assert list(named_engines(["out/x"])) == ["calibrated"]
    assert list(named_engines(["out/x", "out/y"])) == ["x", "y"]
    assert list(named_engines(["q=out/x", "out/y"])) == ["q", "y"]


@pytest.mark.parametrize("arguments", [["a", "b/a"], ["fp=a"], ["steps=a"], ["=a"]])
def test_names_that_clash_are_refused(arguments):
    with pytest.raises(OptionError, match="name the engines apart"):
        named_engines(arguments)


def test_zero_steps_are_refused(engines, tmp_path, capsys):
    arguments = [str(engines / "kmeans"), "--reference", str(engines / "fp"), "-o", str(tmp_path)]
    assert main(["evaluate", *arguments, "--steps", "0"]) == 2
    assert "steps is 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
