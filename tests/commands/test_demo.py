"""`vq4dit demo` with a stand-in for the calibration: files, report, table."""

import json

import numpy as np
import pytest
from PIL import Image
from support_export import random_layer

from vq4dit.calibrate.artifact import ArtifactInfo, save_artifact
from vq4dit.calibrate.checkpoint import Checkpoint
from vq4dit.cli import main
from vq4dit.commands import demo as command

FEW = ["--num-images", "20", "--steps", "2", "--threads", "1", "--quiet", "--target", "onnx"]


def quantize_at_random(checkpoint, output, recipe, args):
    """Write an artifact of random codewords in the place of the calibration."""
    source = Checkpoint(checkpoint)
    rng = np.random.default_rng(len(recipe))
    shapes = source.config.block_linear_shapes()
    layers = {name: random_layer(rng, *shape, bits=args.bits) for name, shape in shapes.items()}
    info = ArtifactInfo(
        config=source.config,
        layouts={name: layer.layout for name, layer in layers.items()},
        source_sha256=source.sha256,
        label_names=source.label_names,
        latent_scaling_factor=source.latent_scaling_factor,
    )
    dense = [n for n in source.config.tensor_shapes() if n.rpartition(".")[0] not in layers]
    save_artifact(output, info, layers, {name: source.tensor(name) for name in dense})
    return {}  # no report


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Exit code and folder of one run."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_calibrate", quantize_at_random)
        return main(["demo", "-o", str(folder), *FEW]), folder


def test_demo_leaves_artifacts_engines_report_and_pictures(done):
    code, folder = done
    assert code == 0
    assert {str(p.relative_to(folder)) for p in folder.glob("*")} == {
        "kmeans.vq.safetensors", "calibrated.vq.safetensors", "engines", "metrics.json",
        "comparison.png", "samples.png",
    }  # fmt: skip
    assert {p.name for p in (folder / "engines").iterdir()} == {"fp", "kmeans", "calibrated"}


def test_report_has_the_keys_of_the_contract(done):
    values = json.loads((done[1] / "metrics.json").read_text())
    assert list(values)[:5] == ["fp", "kmeans", "calibrated", "num_images", "steps"]
    for name in ("fp", "kmeans", "calibrated"):
        assert set(values[name]) == {
            "frechet_distance", "relative_latent_error", "diversity", "label_accuracy",
        }  # fmt: skip
        assert values[name]["frechet_distance"] > 0
    assert values["seconds"]["total"] >= values["seconds"]["evaluate"] > 0
    assert set(values["sizes"]) == {"fp", "kmeans", "calibrated"}
    assert 2 < values["sizes"]["kmeans"]["bits_per_weight"] < 2.2
    assert values["sizes"]["fp"]["step_bytes"] > 5 * values["sizes"]["kmeans"]["step_bytes"]


def test_pictures_show_every_engine_and_class(done):
    with Image.open(done[1] / "comparison.png") as picture:
        assert picture.width > 10 * 96
        assert picture.height > 3 * 96
    with Image.open(done[1] / "samples.png") as picture:
        assert picture.size == (10 * 34 - 2, 2 * 34 - 2)


@pytest.mark.parametrize("channels", ["0", "-1", "some"])
def test_cfg_channels_out_of_range_are_refused(channels, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["demo", "-o", str(tmp_path), f"--cfg-channels={channels}"])
    assert end.value.code == 2
    assert "needed a number from 1, or all" in capsys.readouterr().err
