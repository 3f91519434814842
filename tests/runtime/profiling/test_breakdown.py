"""Sums by part, op and layer, against the same sums by hand."""

import pytest
from profile_document import NAMES, PEAKS, document, nodes
from tiny_engine import write_tiny_engine

from vq4dit.runtime.profiling.breakdown import breakdown, weights_by_layer
from vq4dit.runtime.profiling.comparison import comparison
from vq4dit.runtime.session import NodeTime

WHOLE_MS = 0.5


def test_every_view_adds_up_to_all_nodes():
    rows = breakdown(nodes(), whole_ms=WHOLE_MS, peaks=PEAKS)
    total = sum(node.duration_us for node in nodes()) / 1e3
    for view in ("parts", "ops", "kinds", "layers"):
        assert sum(row["ms"] for row in rows[view]) == pytest.approx(total)
        assert sum(row["share"] for row in rows[view]) == pytest.approx(total / WHOLE_MS)
        assert sum(row["num_nodes"] for row in rows[view]) == len(NAMES)


def test_attention_by_hand():
    rows = breakdown(nodes(), whole_ms=WHOLE_MS, peaks=PEAKS)
    row = next(row for row in rows["parts"] if row["part"] == "attention")
    places = [i for i, name in enumerate(NAMES) if ".attn" in name]
    ms = sum(10.0 + 3 * i for i in places) / 1e3
    flop = len(places) * 2 * 8 * 64 * 64
    num_bytes = sum(4096 + 1024 * (1 + i % 3) for i in places)
    assert row["ms"] == pytest.approx(ms)
    assert row["gflop"] == pytest.approx(flop / 1e9)
    assert row["gflops"] == pytest.approx(flop / ms / 1e6)
    assert row["gbytes_per_s"] == pytest.approx(num_bytes / ms / 1e6)
    assert row["flops_per_byte"] == pytest.approx(flop / num_bytes)
    assert row["roof_share"] == pytest.approx(row["gflops"] / PEAKS.gflops)


def test_below_the_ridge_traffic_is_the_roof():
    slow = [NodeTime(name="latent_out", op="Add", duration_us=1.0, inputs=((4,), (4,)),
                     outputs=((4,),), activation_bytes=32, output_bytes=16)]  # fmt: skip
    row = breakdown(slow, whole_ms=1.0, peaks=PEAKS)["parts"][0]
    assert row["flops_per_byte"] < PEAKS.ridge
    assert row["roof_share"] == pytest.approx(48 / 1e3 / PEAKS.gbytes_per_s)


def test_layers_name_their_part_and_slowest_op():
    rows = breakdown(nodes(), whole_ms=WHOLE_MS, peaks=PEAKS)["layers"]
    found = {row["layer"]: (row["part"], row["main_op"]) for row in rows}
    assert found["blocks.0.attn.qkv"] == ("attention", "CodebookGemm")
    assert found["blocks.0.norm1"] == ("adaLN", "Add")


def test_a_kind_is_the_same_layer_of_all_blocks():
    rows = breakdown(nodes(), whole_ms=WHOLE_MS, peaks=PEAKS)
    kind = next(row for row in rows["kinds"] if row["kind"] == "blocks.*.attn.qkv")
    layers = [row for row in rows["layers"] if row["layer"].endswith("attn.qkv")]
    assert len(layers) == kind["num_nodes"] == 2 and kind["part"] == "attention"
    assert kind["ms"] == pytest.approx(sum(row["ms"] for row in layers))
    assert [row["ms"] for row in rows["kinds"]] == sorted(
        (r["ms"] for r in rows["kinds"]), reverse=True
    )


def test_all_nodes_of_a_decoder_are_the_decoders():
    rows = breakdown(nodes(), whole_ms=WHOLE_MS, peaks=PEAKS, is_decoder=True)
    assert [row["part"] for row in rows["parts"]] == ["decoder"]


@pytest.mark.parametrize(("microseconds", "num_bytes"), [(0.0, 16), (5.0, 0)])
def test_nodes_without_time_or_known_work_have_no_rate(microseconds, num_bytes):
    node = NodeTime(name="guidance", op="Add", duration_us=microseconds, output_bytes=num_bytes)
    row = breakdown([node], whole_ms=1.0, peaks=PEAKS)["parts"][0]
    assert row["gflops"] is row["gbytes_per_s"] is row["roof_share"] is None


def test_weights_add_up_to_the_step_models_files(tmp_path):
    manifest = write_tiny_engine(tmp_path / "engine")
    rows = weights_by_layer(manifest)
    linears = manifest.model.block_linear_shapes()
    assert [row["layer"] for row in rows] == [*linears, "other"]
    assert rows[0]["bytes"] == 4 * linears[rows[0]["layer"]][0] * linears[rows[0]["layer"]][1]
    assert all(row["bytes"] >= 0 for row in rows)


def test_a_single_engine_is_not_compared():
    assert document("a")["comparison"] == []


def test_ratios_are_to_the_first():
    rows = {row["figure"]: row for row in document("a", "b")["comparison"]}
    assert rows["step, median"]["ratios"] == pytest.approx([1.0, 2.0])
    assert rows["pictures per second"]["ratios"] == pytest.approx([1.0, 0.5])
    assert rows["peak memory"]["values"] == [6 << 26, 6 << 26]
    assert rows["part: MLP"]["ratios"][1] == pytest.approx(2.0, rel=0.1)


def test_figures_that_one_engine_lacks_are_left_open():
    engines = document("a", "b")["engines"]
    engines[1]["decode"] = None
    rows = {row["figure"]: row for row in comparison(engines)}
    assert rows["decode, median"]["values"][1] is rows["decode, median"]["ratios"][1] is None
    assert "energy per step" not in rows
