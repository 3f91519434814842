"""The HTML report: whole, alone, and with the JSON's numbers; in a browser where there is one."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from profile_document import document

from vq4dit.prediction import predict
from vq4dit.runtime.profiling.html import value_at
from vq4dit.runtime.profiling.report import report_html, write_report

VOID = {"meta", "link"}


class Page(HTMLParser):
    """Checks that tags match; collects figures by key, addresses, the data."""

    def __init__(self, text):
        super().__init__()
        self.open, self.figures, self.links, self._key = [], [], [], None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[name] for name in ("src", "href") if name in values]
        if tag not in VOID:
            self.open.append(tag)
        if "data-key" in values:
            self._key = values["data-key"]
            self.figures.append((self._key, ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "b"):
            self._key = None

    def handle_data(self, data):
        if self._key is not None:
            self.figures[-1] = (self._key, self.figures[-1][1] + data)


def whole_document():
    values = document("fp <1>", "calibrated")
    values["engines"][1]["energy"]["sources"] = [
        {"source": "ina3221", "watts": 9.5, "idle_watts": 4.0, "joules_per_step": 0.05,
         "joules_per_image": 2.5}
    ]  # fmt: skip
    values["predictions"] = [predict("DiT-S/2", "orin-agx", 1).to_dict()]
    return values


@pytest.fixture(scope="module")
def text():
    return report_html(whole_document())


def data_of(text):
    found = re.search(r'<script type="application/json" id="profile-data">(.*?)</script>', text)
    return json.loads(found[1])


def check_figures(figures, values):
    """Each figure shows the JSON's number, to the digits that it has."""
    for key, shown in figures:
        value = value_at(values, key)
        number = re.match(r"(-?[\d,]*\.?\d+)( %| [KMG]iB)?", shown)
        if value is None:
            assert shown == "-", (key, shown)
            continue
        assert number, (key, shown)
        factor = {" %": 0.01, " KiB": 2.0**10, " MiB": 2.0**20, " GiB": 2.0**30}.get(number[2], 1.0)
        digits = len(number[1].partition(".")[2])
        found = float(number[1].replace(",", "")) * factor
        assert abs(found - value) <= 0.51 * factor * 10.0**-digits, (key, shown, value)


def test_figures_are_the_jsons(text):
    page = Page(text)
    assert len(page.figures) > 300
    check_figures(page.figures, whole_document())
    assert data_of(text) == whole_document()


@pytest.mark.parametrize(
    "key",
    ["peaks.gflops", "comparison.0.values.1", "engines.1.step.p99_ms", "engines.0.decode.median_ms",
     "engines.0.host_overhead_per_step.median_ms", "engines.0.throughput.2.images_per_s",
     "engines.1.layers.account.closure", "engines.0.layers.account.outside_nodes_ms",
     "engines.0.layers.parts.0.gflops", "engines.0.layers.ops.0.ms",
     "engines.0.memory.phases.1.peak_bytes", "engines.1.energy.sources.0.joules_per_step",
     "engines.0.weights.0.bytes", "predictions.0.step_ms.2bit",
     "predictions.0.memory_bytes.fp16.total_bytes"],
)  # fmt: skip
def test_what_was_asked_for_is_there(text, key):
    assert key in dict(Page(text).figures)


def test_nothing_is_fetched(text):
    assert Page(text).links == ["data:,"]
    assert "http" not in text.replace("application/json", "") and "@import" not in text
    assert "url(" not in text and text.count("<script") == 1


def test_words_of_others_are_escaped(text):
    assert "fp &lt;1&gt;" in text and "fp <1>" not in text
    assert "Processor &lt;X&gt; &amp; Co" in text


def test_predictions_are_labelled_and_their_assumptions_listed(text):
    section = text[text.index('<section class="predicted">') :]
    assert "predicted ms" in section and "predicted memory" in section
    for sentence in whole_document()["predictions"][0]["assumptions"]:
        assert sentence[:40].replace("&", "&amp;") in section
    assert 'content: "predicted, not measured"' in text


@pytest.mark.parametrize(
    "change",
    [
        lambda e: [
            e.pop(k) for k in ("layers", "decoder_layers", "memory", "energy", "throughput")
        ],
        lambda e: e.update(decode=None, host_overhead_per_step=None, decoder_layers=None),
        lambda e: e["memory"].update(phases=[]),
    ],
)
def test_what_was_not_measured_is_left_out(change):
    values = document("a")
    change(values["engines"][0])
    page = Page(report_html(values))
    check_figures(page.figures, values)


def test_a_prediction_alone():
    values = {"format": 1, "engines": [], "comparison": [],
              "predictions": [predict("DiT-S/2", "a100-40", 2).to_dict()]}  # fmt: skip
    page = Page(report_html(values))
    assert page.figures and all(key.startswith("predictions.0.") for key, _ in page.figures)


def test_several_predictions_have_an_overview():
    found = [predict("DiT-S/2", gpu, 1).to_dict() for gpu in ("orin-agx", "l4")]
    found.append(predict("DiT-S/2", "l4", 1, weights=["4bit"]).to_dict())
    values = {"format": 1, "engines": [], "comparison": [], "predictions": found}
    page = Page(report_html(values))
    check_figures(page.figures, values)
    overview = page.figures[: 3 * 2 * 3]
    assert overview[0][0] == "predictions.0.step_ms.fp16"
    assert overview[-1][0] == "predictions.2.memory_bytes.4bit.total_bytes"
    assert sum(text == "-" for _, text in overview) == 2 + 2 + 4
    assert "All predictions" not in report_html({**values, "predictions": found[:1]})


def test_written_whole(tmp_path):
    write_report(tmp_path / "r.html", document("a"))
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == report_html(document("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.toolchain
def test_in_a_browser(tmp_path):
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None:
        pytest.skip("no Chromium to render the report with")
    write_report(tmp_path / "r.html", whole_document())
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1040,3000",
         f"--screenshot={tmp_path / 'r.png'}", "--virtual-time-budget=2000", "--dump-dom",
         (tmp_path / "r.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    page = Page(done.stdout)
    assert len(page.figures) > 300
    check_figures(page.figures, whole_document())
    assert data_of(done.stdout) == whole_document()
