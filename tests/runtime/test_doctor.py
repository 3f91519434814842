"""What doctor tells of this machine."""

import json
import sys

import pytest

from vq4dit.runtime.doctor import OPTIONAL_MODULES, inspect_machine

pytestmark = pytest.mark.ort


def test_facts_are_plain_and_complete():
    machine = inspect_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cpu"]["cores"] >= 1
    assert set(machine["modules"]) == set(OPTIONAL_MODULES)
    assert "CPUExecutionProvider" in machine["onnxruntime"]["providers"]


def test_missing_onnxruntime_is_told_not_raised(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert inspect_machine()["onnxruntime"] is None
