"""`vq4dit profile`: files and JSON of a measurement, predictions, wrong usage."""

import json
import re

import pytest
from tiny_engine import write_tiny_engine

from vq4dit.cli import main

QUICK = ("--batches", "1", "--steps", "2", "--repeats", "4", "--image-repeats", "1",
         "--threads", "1", "--quiet")  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("engines") / "tiny"
    write_tiny_engine(directory)
    return directory


@pytest.mark.ort
def test_json_trace_and_report(engine, tmp_path, capsys):
    trace, report = tmp_path / "trace.json", tmp_path / "report.html"
    arguments = ["profile", str(engine), "--json", "--trace", str(trace), "--report", str(report)]
    assert main([*arguments, *QUICK]) == 0
    document = json.loads(capsys.readouterr().out)
    result = document["engines"][0]
    assert result["memory"]["phases"][-1]["phase"] == "decode"
    assert result["layers"]["account"]["plain_ms"] > 0
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"step 1", "step 2", "decode", "host"} <= names
    assert json.dumps(document["engines"][0]["step"]) in report.read_text()


@pytest.mark.ort
def test_table(engine, capsys):
    quick = [word for word in QUICK if word != "--quiet"]
    left_out = ("--no-layers", "--no-memory", "--no-energy")
    assert main(["profile", str(engine), *quick, *left_out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  step, batch 1") for line in lines)
    assert max(map(len, lines)) <= 100


def test_predictions(tmp_path, capsys):
    report = tmp_path / "report.html"
    arguments = ("--predict", "a100-40, orin-agx", "--shapes", "DiT-S/2", "--report", str(report))
    assert main(["profile", "--json", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    found = document["predictions"]
    assert [p["gpu"] for p in found] == ["a100-40", "orin-agx"]
    assert all(p["label"] == "predicted" and p["assumptions"] for p in found)
    assert document["engines"] == []
    page = report.read_text(encoding="utf-8")
    assert page.count('<section class="predicted">') == 3  # one for each GPU, and one of all
    assert page.count("<h2>All predictions</h2>") == 1


def test_prediction_for_an_engine(engine, capsys):
    assert main(["profile", str(engine), "--predict", "l4", "--weights", "fp16,3bit"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("PREDICTED") and "3bit" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no engine directory was given"),
        (("--predict", "a100-40"), "--predict needs an engine directory or --shapes"),
        (("--predict", "abacus", "--shapes", "DiT-XL/2"), "abacus"),
        (("--predict", "l4", "--shapes", "DiT-S/2", "--trace", "t.json"), "--trace shows what was"),
        (("--shapes", "DiT-XL/2"), "--shapes needs --predict"),
        (("x", "--batches", "1,two"), "--batches is '1,two'"),
        (("x", "--report", "missing/r.html"), "the folder .*missing does not exist"),
    ],
)
def test_wrong_usage(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
