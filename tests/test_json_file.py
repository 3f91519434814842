"""JSON reports are whole or not there."""

import json
import os

import pytest

from vq4dit.json_file import write_json


def test_report_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": [2.5, None, "é"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": [2.5, None, "é"]}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_nothing_is_left_of_a_report_that_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"a": 2})
    assert os.listdir(tmp_path) == ["metrics.json"]
    assert json.loads(path.read_text()) == {"a": 1}
