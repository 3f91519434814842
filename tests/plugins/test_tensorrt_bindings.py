"""What registering says where TensorRT is missing or too old."""

import sys
from types import ModuleType

import pytest

from vq4dit.errors import BackendUnavailable
from vq4dit.plugins.tensorrt import register_plugins


def test_without_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match="module tensorrt cannot be imported .*; install"):
        register_plugins(80)


def test_with_a_version_before_ahead_of_time_plugins(monkeypatch):
    old = ModuleType("tensorrt")
    old.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    message = "TensorRT 10.3.0 has no ahead-of-time plugins, needed 10.9 or newer; build our C"
    with pytest.raises(BackendUnavailable, match=message):
        register_plugins(87)
