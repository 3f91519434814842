import json

import pytest
from support_calibrate import save_checkpoint

from vq4dit.cli import main
from vq4dit.commands.precision_arguments import bytes_from_text, keep_from_texts
from vq4dit.errors import OptionError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.2MB", 3_200_000),
        ("3.2 mb", 3_200_000),
        ("2MiB", 2 << 20),
        ("1.5GB", 1_500_000_000),
        (".5kB", 500),
        ("1024", 1024),
    ],
)
def test_sizes(text, expected):
    assert bytes_from_text(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "0MB", "3 bits", "1e3MB", "nan"])
def test_sizes_that_are_none(text):
    with pytest.raises(OptionError, match="such as 3.2MB"):
        bytes_from_text(text)


def test_exceptions():
    assert keep_from_texts(["blocks.0.*=fp16", "*.fc1=4"]) == (
        ("blocks.0.*", "fp16"),
        ("*.fc1", "4"),
    )
    for text in ("blocks.0.*", "=fp16"):
        with pytest.raises(OptionError, match="needed LAYERS=PRECISION"):
            keep_from_texts([text])


@pytest.fixture
def arguments(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "dit.safetensors")
    output = str(tmp_path / "x.vq.safetensors")
    return ["calibrate", str(checkpoint), "-o", output, "--json", "--quiet", "--method", "kmeans"]


def test_a_target_is_told_in_the_table(tmp_path, capsys):
    checkpoint = save_checkpoint(tmp_path / "dit.safetensors")
    arguments = ["calibrate", str(checkpoint), "-o", str(tmp_path / "x.vq.safetensors")]
    assert main([*arguments, "--method", "kmeans", "--target-size", "0.09MB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("allocated: ") for line in lines)
    assert max(map(len, lines[:-1])) <= 80


def test_calibrate_with_exceptions(arguments, capsys):
    assert main([*arguments, "--keep", "blocks.0.*=fp16", "--keep", "*.mlp.fc1=4"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["keep"] == [["blocks.0.*", "fp16"], ["*.mlp.fc1", "4"]]
    assert "blocks.0.attn.qkv" not in result["layer_bytes"]
    assert "blocks.0.mlp.fc1" in result["layer_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "attn=fp16"], "no linear has such a name"),
        (["--target-bits", "0.1"], "target bits is 0.1; this model can have"),
        (["--target-size", "1TB"], "such as 3.2MB"),
        (["--target-size", "1kB"], "target size is 0.001 MB; the whole file can have"),
        (["--target-size", "1MB", "--bits", "3"], "not allowed with"),
    ],
)
def test_bad_options(arguments, capsys, options, message):
    try:
        code = main([*arguments, *options])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
