"""The table of targets."""

import pytest

from vq4dit.engines.targets import TARGETS, require_target
from vq4dit.errors import BackendUnavailable, OptionError


@pytest.mark.parametrize("name", ["cpu", "onnx"])
def test_targets_that_work_here(name):
    assert require_target(name).why_not_here() is None


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_targets_that_are_refused_say_what_is_missing(name):
    with pytest.raises(BackendUnavailable, match=f"'{name}' is not available: .*; build with"):
        require_target(name)


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(OptionError, match="'gpu' is unknown; needed one of cpu, onnx, tensorrt"):
        require_target("gpu")


def test_missing_module_is_named(monkeypatch):
    monkeypatch.setattr("vq4dit.engines.targets.find_spec", lambda name: None)
    assert TARGETS["cpu"].why_not_here().startswith("module onnxruntime is not installed; pip")
