"""The table of targets."""

import pytest

from vq4dit.engines.targets import TARGETS, chosen_weights, is_installed, require_target
from vq4dit.errors import BackendUnavailable, OptionError

MODULE = "vq4dit.engines.targets"


@pytest.mark.parametrize("name", ["cpu", "onnx"])
def test_targets_that_work_here(name):
    target = require_target(name)
    assert target.why_not_built_here() is None and target.why_not_run_here() is None


@pytest.mark.parametrize("name", TARGETS)
def test_missing_modules_are_named_with_the_command_that_adds_them(name, monkeypatch):
    monkeypatch.setattr(f"{MODULE}.is_installed", lambda module: False)
    first = TARGETS[name].build_modules[0]
    with pytest.raises(BackendUnavailable) as caught:
        require_target(name)
    assert str(caught.value).startswith(
        f"target {name!r} is not available: module {first} is not installed; pip install "
    )


def test_tensorrt_builds_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(f"{MODULE}.is_installed", lambda module: True)
    monkeypatch.setattr(f"{MODULE}.find_driver", lambda: (None, "the driver is asleep"))
    with pytest.raises(BackendUnavailable, match="the driver is asleep; use a machine with an NV"):
        require_target("tensorrt")
    rtx = require_target("tensorrt-rtx")
    assert "the driver is asleep" in str(rtx.why_not_run_here())


def test_one_of_two_modules_is_enough(monkeypatch):
    monkeypatch.setattr(f"{MODULE}.is_installed", lambda module: module != "tensorrt")
    monkeypatch.setattr(f"{MODULE}.find_driver", lambda: (object(), ""))
    assert TARGETS["tensorrt"].why_not_run_here() is None
    assert "module tensorrt is not installed" in str(TARGETS["tensorrt"].why_not_built_here())


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(OptionError, match="'gpu' is unknown; needed one of cpu, onnx, tensorrt"):
        require_target("gpu")


def test_weights_belong_to_a_target():
    assert [chosen_weights(t, None) for t in TARGETS.values()] == ["fp32", "fp32", "fp16", "fp16"]
    assert chosen_weights(TARGETS["tensorrt"], "bf16") == "bf16"
    with pytest.raises(OptionError, match="fp32 are not for target tensorrt; needed fp16 or bf16"):
        chosen_weights(TARGETS["tensorrt"], "fp32")


def test_submodules_of_a_missing_package_are_not_installed():
    assert not is_installed("no_such_package.part")
    assert is_installed("numpy.linalg")
