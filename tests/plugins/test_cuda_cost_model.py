"""The cost model: laws that any such model must obey, and figures worked out by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq4dit.errors import OptionError, ShapeError
from vq4dit.plugins.cuda.codebook_format import CodebookFormat
from vq4dit.plugins.cuda.cost_model import predict_decode, predict_gemm, predict_gemv
from vq4dit.plugins.cuda.efficiency import ASSUMED, UNCALIBRATED, Efficiencies
from vq4dit.plugins.cuda.gpu_table import GPUS, Gpu, find_gpu
from vq4dit.plugins.cuda.launch_table import (
    CODEBOOK_GEMMS,
    CODEBOOK_GEMVS,
    CODEBOOK_WGMMAS,
    LIBRARY_GEMMS,
)
from vq4dit.plugins.cuda.selection import (
    AHEAD_OF_TIME,
    WITH_DECODE,
    WITH_SPLIT,
    choose_codebook,
    choose_dense,
    codebook_candidates,
)

TWO_BITS = CodebookFormat.from_bits(2)
A100 = GPUS["a100-40"]
gpus = st.sampled_from(list(GPUS.values()))
sizes = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("a100-40", 312), ("a100-80", 312), ("orin-agx", 42.5), ("orin-nano", 16.75),
        ("h100", 989), ("l4", 121), ("rtx-4090", 165.2), ("thor", 258.75),
    ],
)  # fmt: skip
def test_table_gives_the_tensor_peak_of_the_datasheet(name, tflops):
    assert GPUS[name].library_flops / 1e12 == pytest.approx(tflops, rel=0.01)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=list(GPUS))
def test_every_figure_of_the_table_names_its_source(gpu):
    figures = set(Gpu.__dataclass_fields__) - {"name", "title", "compute_capability", "sources"}
    assert set(gpu.sources) == figures
    assert all(gpu.sources.values())


def test_gpu_is_found_however_it_is_written():
    assert find_gpu("RTX 4090") is find_gpu("rtx_4090") is GPUS["rtx-4090"]
    with pytest.raises(OptionError, match="'v100' is not in the table; known are a100-40"):
        find_gpu("v100")


@pytest.mark.parametrize(
    ("threads", "registers", "shared_kib", "expected"),
    [
        (128, 206, 80, 2),  # shared memory: 164 / 81
        (128, 255, 8, 2),  # registers: 65536 / (255 -> 256 * 128)
        (1024, 32, 1, 2),  # threads: 2048 / 1024
        (32, 16, 1, 32),  # blocks
        (128, 32, 200, 0),
    ],
)
def test_occupancy_is_the_tightest_limit(threads, registers, shared_kib, expected):
    found = A100.limits.resident_blocks(
        threads=threads, registers=registers, shared_bytes=shared_kib * 1024
    )
    assert found == expected


def test_one_wave_of_128x128_tiles_is_the_sum_worked_out_by_hand():
    """qkv at M = 512: 4 x 27 = 108 tiles on 108 SMs, 18 steps of 1024 cycles at full rate."""
    tile = CODEBOOK_GEMMS[0]
    found = predict_gemm(A100, tile, 512, 3456, 1152, weight=TWO_BITS)
    assert (found.waves, found.blocks_per_sm) == (1, 2)
    tensor = 18 * 1024 / 1.41e9 / (ASSUMED.codebook_tensor * ASSUMED.one_warp)
    assert found.parts["tensor"] == pytest.approx(tensor)
    shared = (18 * (128 * 2 + 128 * 2 + 128) / ASSUMED.shared + 256) / 1.41e9
    assert found.parts["shared"] == pytest.approx(shared)
    issue = 18 * tile.loop_instructions / 1.41e9 / ASSUMED.issue  # four warps, four schedulers
    assert found.parts["issue"] == pytest.approx(issue)
    assert found.parts["latency"] == pytest.approx(18 * 0.4e-6)
    assert found.parts["dram"] == pytest.approx((3456 * 288 + 2048) / 1555e9 / 0.85)
    others = sorted(v for k, v in found.parts.items() if k not in ("launch", "fill"))
    assert found.seconds == pytest.approx(2e-6 + 0.8e-6 + others[-1] + 0.15 * others[-2])


@given(gpu=gpus, m=sizes, n=sizes, k=sizes)
def test_no_prediction_beats_the_rooflines(gpu, m, n, k):
    for found in (choose_dense(gpu, m, n, k), choose_codebook(gpu, m, n, k, TWO_BITS)):
        is_widest = found.kernel.startswith("dense") or (found.tile and found.tile.only_sm)
        rate = gpu.library_flops if is_widest else gpu.mma_flops
        assert found.seconds > 2 * m * n * k / rate
        stored = 2 if found.kernel.startswith("dense") else 0.25
        assert found.seconds > n * k * stored / gpu.dram_bytes_per_second
        assert found.seconds > gpu.launch_seconds


@given(gpu=gpus, m=sizes, n=sizes, k=sizes, bits=st.sampled_from([1, 2, 3, 4]))
def test_one_launch_means_one_launch_and_no_workspace(gpu, m, n, k, bits):
    weight = CodebookFormat.from_bits(bits)
    for found in codebook_candidates(gpu, m, n, k, weight, launcher=AHEAD_OF_TIME):
        assert (found.num_launches, found.split_k, found.workspace_bytes) == (1, 1, 0)
    times = [
        choose_codebook(gpu, m, n, k, weight, launcher=launcher).seconds
        for launcher in (AHEAD_OF_TIME, WITH_DECODE, WITH_SPLIT)
    ]
    assert times == sorted(times, reverse=True)


@given(gpu=gpus, m=sizes, n=sizes, k=sizes)
def test_more_work_never_takes_less_time(gpu, m, n, k):
    for tile in (*CODEBOOK_GEMMS, *CODEBOOK_WGMMAS, *LIBRARY_GEMMS):
        weight = None if tile in LIBRARY_GEMMS else TWO_BITS
        less = predict_gemm(gpu, tile, m, n, k, weight=weight)
        more = predict_gemm(gpu, tile, 2 * m, n, 2 * k, weight=weight)
        assert (less is None) == (more is None)
        assert less is None or less.seconds <= more.seconds


@given(gpu=gpus, share=st.floats(0.3, 0.9))
def test_a_slower_main_loop_never_takes_less_time(gpu, share):
    slow = Efficiencies(codebook_tensor=share, calibration="slow")
    fast = replace(slow, codebook_tensor=min(1.0, share * 1.1))
    found = choose_codebook(gpu, 512, 3456, 1152, TWO_BITS, efficiencies=slow)
    assert found.calibration == "slow"
    assert found.seconds >= choose_codebook(
        gpu, 512, 3456, 1152, TWO_BITS, efficiencies=fast
    ).seconds  # fmt: skip


def test_one_wave_of_warpgroups_is_the_sum_worked_out_by_hand():
    """qkv at M = 512: 4 x 27 = 108 tiles on 132 SMs, 18 steps of 512 cycles at full rate."""
    tile, gpu = CODEBOOK_WGMMAS[0], GPUS["h100"]
    found = predict_gemm(gpu, tile, 512, 3456, 1152, weight=TWO_BITS)
    assert (found.waves, found.blocks_per_sm) == (1, 1)
    tensor = 18 * 128 * 128 * 64 / 2048 / gpu.clock_hz / ASSUMED.codebook_tensor
    assert found.parts["tensor"] == pytest.approx(tensor)
    # Two warpgroups read 128 rows of x, 128 rows of codewords, 128 rows copied; the codebook.
    shared = (18 * (2 * 128 + 128 + 128) / ASSUMED.shared + 256) / gpu.clock_hz
    assert found.parts["shared"] == pytest.approx(shared)
    assert found.parts["latency"] == pytest.approx(18 * gpu.memory_latency_seconds / 2)


def test_warpgroups_are_chosen_on_hopper_alone():
    for gpu in GPUS.values():
        chosen = {
            choose_codebook(gpu, 512, n, k, TWO_BITS).tile.only_sm
            for k, n in ((1152, 3456), (1152, 1152), (1152, 4608), (4608, 1152))
        }
        assert chosen == ({90} if gpu.compute_capability == 90 else {None}), gpu.name


def test_decoded_weight_stays_in_a_large_l2_only():
    _, in_a100 = predict_decode(A100, 4608, 1152, weight=TWO_BITS)
    _, in_orin = predict_decode(GPUS["orin-agx"], 4608, 1152, weight=TWO_BITS)
    assert (in_a100, in_orin) == (True, False)


def test_every_prediction_says_that_nothing_was_measured():
    found = [
        predict_gemv(A100, CODEBOOK_GEMVS[0], 2, 6912, 1152, weight=TWO_BITS),
        choose_dense(A100, 2, 6912, 1152),
        predict_decode(A100, 6912, 1152, weight=TWO_BITS)[0],
    ]
    assert {prediction.calibration for prediction in found} == {UNCALIBRATED}


def test_sizes_and_shares_out_of_range_are_refused():
    with pytest.raises(ShapeError, match="m is 0, needed a positive size"):
        choose_codebook(A100, 0, 1, 1, TWO_BITS)
    with pytest.raises(OptionError, match="bits is 5"):
        CodebookFormat.from_bits(5)
    with pytest.raises(OptionError, match=r"efficiency dram is 1.5, needed 0 < share <= 1"):
        Efficiencies(dram=1.5)
