"""A profile as `profile_engines` gives it, made of round numbers; for the tests of its forms."""

from vq4dit.runtime.profiling.breakdown import breakdown
from vq4dit.runtime.profiling.comparison import comparison
from vq4dit.runtime.profiling.event_cost import EventCost
from vq4dit.runtime.profiling.latency import latency
from vq4dit.runtime.profiling.options import ProfileOptions
from vq4dit.runtime.profiling.ort_nodes import account
from vq4dit.runtime.profiling.peaks import Peaks
from vq4dit.runtime.session import NodeTime

PEAKS = Peaks(threads=1, gflops=100.0, gbytes_per_s=10.0)
NAMES = (
    "x_embedder.proj", "blocks.adaLN_modulation.1", "blocks.0.norm1", "blocks.0.attn.qkv",
    "blocks.0.attn.scores/MatMulScaleFusion/", "blocks.0.attn.proj", "blocks.0.mlp.fc1",
    "blocks.0.mlp.fc2", "blocks.1.attn.qkv", "blocks.1.mlp.fc1", "final_layer.linear",
    "guidance", "latent_out",
)  # fmt: skip


def nodes(scale=1.0):
    """One run of a step of two blocks; the linears of 64 features have 8 rows."""
    return [
        NodeTime(
            name=name,
            op="Add" if name in ("guidance", "latent_out", "blocks.0.norm1") else "CodebookGemm",
            start_us=50.0 * i,
            duration_us=scale * (10.0 + 3 * i),
            inputs=((8, 64), (64, 64)),
            outputs=((8, 64),),
            activation_bytes=2048,
            weight_bytes=1024 * (1 + i % 3),
            output_bytes=2048,
        )
        for i, name in enumerate(NAMES)
    ]


def engine(name, scale=1.0):
    """Result of one engine; scale: factor on all times."""
    profile = account(
        [nodes(scale)] * 3, [scale * 4e-4] * 3, [scale * 6e-4] * 3,
        EventCost(per_node_us=0.5, per_tensor_us=0.0, renaming_us=0.0),
    )  # fmt: skip
    rows = breakdown(profile.nodes, whole_ms=profile.plain_ms, peaks=PEAKS)
    decoder = breakdown(profile.nodes[:2], whole_ms=1.0, peaks=PEAKS, is_decoder=True)
    runs = [scale * s for s in (0.004, 0.005, 0.0045, 0.0042)]
    phases = [
        {"phase": phase, "seconds": 0.1, "rss_bytes": (i + 1) << 26, "peak_bytes": (i + 2) << 26,
         "anonymous_bytes": (i + 1) << 25, "file_bytes": (i + 1) << 25, "device_bytes": None}
        for i, phase in enumerate(("imports", "load", "first step", "steady", "decode"))
    ]  # fmt: skip
    return {
        "name": name,
        "target": "cpu",
        "form": "function",
        "compute_dtype": "float32",
        "cfg": True,
        "source_sha256": "0" * 64,
        "file_bytes": int(scale * 5e6),
        "bits_per_weight": 2.1 * scale,
        "load_seconds": 0.25,
        "weights": [
            {"layer": "blocks.0.attn.qkv", "bits_per_weight": 2.25, "bytes": 55296},
            {"layer": "other", "bits_per_weight": None, "bytes": 4000},
        ],
        "step": {"batch": 1, **latency(runs).to_dict(), "runs_ms": [1e3 * s for s in runs]},
        "throughput": [
            {"batch": n, "count": 3, "median_ms": scale * (2.0 + 2 * n),
             "ms_per_sample": scale * (2.0 + 2 * n) / n,
             "images_per_s": 1e3 * n / (scale * (2.0 + 2 * n) * 50)}
            for n in (1, 2, 4)
        ],
        "image": {"steps": 50, "sampler": "ddim", "batch": 1, "output": "uint8",
                  **latency([scale * 0.25]).to_dict(), "images_per_s": 4 / scale},
        "decode": latency([0.002, 0.0021]).to_dict(),
        "host_overhead_per_step": latency([5e-5] * 49).to_dict(),
        "layers": {"account": profile.to_dict(), **rows},
        "decoder_layers": {"latent_size": 8, "account": profile.to_dict(), **decoder},
        "energy": {"sources": [], "why_not": ["found no power monitor"]},
        "memory": {"phases": phases, "peak_is_per_phase": True},
    }  # fmt: skip


def document(*names):
    """A whole profile of engines with these names, each half as fast as the one before."""
    engines = [engine(name, scale=2.0**i) for i, name in enumerate(names)]
    return {
        "format": 1,
        "machine": {
            "processor": "Processor <X> & Co", "processors": 2, "memory_bytes": 24 << 30,
            "system": "Linux x86_64", "load_average": 0.5, "board": None, "power_mode": "MAXN",
            "clocks": [{"of": "cpu0", "governor": "schedutil", "mhz": 1200.0, "max_mhz": 2200.0}],
            "devices": [], "versions": {"python": "3.11", "vq4dit": "0.1.0"},
        },
        "peaks": PEAKS.to_dict(),
        "options": ProfileOptions().to_dict(),
        "engines": engines,
        "comparison": comparison(engines),
    }  # fmt: skip
