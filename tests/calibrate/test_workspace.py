"""Units on disk: settings that differ, damaged files, values that are not finite."""

from __future__ import annotations

import logging

import pytest
import torch
from support_calibrate import random_vq_linear

from vq4dit.calibrate.start import LayerSpec
from vq4dit.calibrate.workspace import DISTILLATION, Workspace
from vq4dit.errors import ArtifactError, Vq4ditError

SETTINGS = {"bits": 2, "seed": 0, "recipe": {"name": "vq4dit", "soft_steps": 3, "distill_lr": 0.1}}
LAYER = "blocks.0.attn.qkv"


@pytest.fixture
def output(tmp_path):
    """An artifact to be, with a block and a state of the distillation in its workspace."""
    path = tmp_path / "x.vq.safetensors"
    workspace = Workspace(path, SETTINGS, resume=False)
    workspace.save_layers("block-000", {LAYER: random_vq_linear()}, {"curve": torch.zeros(2, 3)})
    workspace.save_tensors(DISTILLATION, {"losses": torch.ones(3)})
    return path


def test_layers_come_back_as_they_were(output):
    layer = random_vq_linear()
    spec = LayerSpec(layout=layer.layout, row_groups=len(layer.codebook))
    stored = Workspace(output, SETTINGS, resume=True).load_layers("block-000", {LAYER: spec})
    assert set(stored.others) == {"curve"}
    found = stored.layers[LAYER]
    assert found.is_soft
    assert torch.equal(found.weight(), layer.weight())
    assert torch.equal(found.candidates, layer.candidates)


def test_without_resume_everything_is_made_anew(output):
    workspace = Workspace(output, SETTINGS, resume=False)
    assert workspace.load_tensors("block-000") is None
    assert workspace.load_tensors(DISTILLATION) is None


def test_settings_of_the_distillation_concern_it_alone(output):
    recipe = {**SETTINGS["recipe"], "distill_lr": 0.01}
    workspace = Workspace(output, {**SETTINGS, "recipe": recipe}, resume=True)
    assert workspace.load_tensors("block-000") is not None
    assert workspace.load_tensors(DISTILLATION) is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"recipe": {**SETTINGS["recipe"], "soft_steps": 4}}, "recipe"),
        ({"autocast": "bf16"}, "autocast"),
    ],
)
def test_other_settings_are_named(output, changed, named):
    with pytest.raises(ArtifactError, match=rf"differing: {named}\).*without --resume"):
        Workspace(output, {**SETTINGS, **changed}, resume=True)
    assert Workspace(output, SETTINGS, resume=True).load_tensors("block-000") is not None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1, 2]", b'{"seed": 0}', b"{"])
def test_damaged_settings_are_told(output, content):
    workspace = Workspace(output, SETTINGS, resume=True)
    (workspace.folder / "settings.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="settings.json is damaged"):
        Workspace(output, SETTINGS, resume=True)


def test_a_damaged_unit_is_made_again(output, caplog):
    workspace = Workspace(output, SETTINGS, resume=True)
    path = workspace.folder / "block-000.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert workspace.load_tensors("block-000") is None
    assert "block-000.safetensors cannot be read" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_stored(output, value):
    workspace = Workspace(output, SETTINGS, resume=True)
    bad = {"losses": torch.ones(3), "value": torch.tensor([0.0, value])}
    with pytest.raises(Vq4ditError, match=r"value became NaN or infinite \(1 of 2 tensors\)"):
        workspace.save_tensors(DISTILLATION, bad)
    assert torch.equal(workspace.load_tensors(DISTILLATION)["losses"], torch.ones(3))


def test_nothing_is_left_at_the_end(output):
    Workspace(output, SETTINGS, resume=True).remove()
    assert list(output.parent.iterdir()) == []
