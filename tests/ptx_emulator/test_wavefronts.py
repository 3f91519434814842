"""Passes of the shared-memory banks, against a count bank by bank."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.wavefronts import count_wavefronts
from support_ptx import run_body


def counted(addresses, num_bytes, threads) -> tuple[int, int]:
    """The model in plain words: of each request the bank that has most words to give."""
    per_request = 32 * 4 // max(num_bytes, 4)
    found = requests = 0
    for request in sorted(set(thread // per_request for thread in threads)):
        words: dict[int, set[int]] = {}
        for address, thread in zip(addresses, threads, strict=True):
            if thread // per_request == request:
                for byte in range(num_bytes):
                    word = (address + byte) // 4
                    words.setdefault(word % 32, set()).add(word)
        found += max(len(of_bank) for of_bank in words.values())
        requests += 1
    return found, requests


@pytest.mark.parametrize("num_bytes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", range(6))
def test_random_accesses_of_some_threads(num_bytes, seed):
    rng = np.random.default_rng(seed)
    threads = np.flatnonzero(rng.random(160) < (0.2, 0.6, 1.0)[seed % 3])
    addresses = rng.integers(0, 60 * (1 + seed), len(threads)) * num_bytes
    found = count_wavefronts(addresses.astype(np.uint64), num_bytes, threads)
    assert found == counted(addresses.tolist(), num_bytes, threads.tolist())


def test_neither_words_nor_warps_share_more_than_they_may():
    threads = np.arange(64)
    same_word, own_words = np.zeros(64, np.uint64), threads.astype(np.uint64) * 4
    assert count_wavefronts(same_word, 4, threads) == (2, 2)
    assert count_wavefronts(own_words, 4, threads) == (2, 2)
    assert count_wavefronts(own_words[32:] * 16, 4, threads[32:]) == (16, 1)
    assert count_wavefronts(own_words[:32] // 4, 1, threads[:32]) == (1, 1)


@pytest.mark.parametrize("how", ["shared", "generic"])
def test_every_warp_of_every_block_counts(how):
    """Loads and stores of 3 blocks of 2 warps, of which one is not whole."""
    body = """mov.u64 %at, tile; cvta.shared.u64 %generic, %at; mul.wide.u32 %mine, %thread, 16;
    add.s64 %at, %at, %mine; add.s64 %generic, %generic, %mine;
    st{space}.v2.b32 [{at}], {{%thread, %thread}}; ld{space}.v2.b32 {{%x, %y}}, [{at}];"""
    space, at = (".shared", "%at") if how == "shared" else ("", "%generic")
    declarations = ".reg .b32 %x, %y; .reg .b64 %at, %generic, %mine;"
    declarations += ".shared .align 16 .b8 tile[1024];"
    text = body.format(space=space, at=at)
    report = run_body(text, [np.zeros(1)], grid=3, block=40, declarations=declarations)
    for name in ("st", "ld"):
        found = report.wavefronts(f"{name}{space}.v2")
        # 40 threads: two half-warps and half of one; 16 bytes apart, 8 threads reach every bank.
        assert (found.found, found.least, found.conflicts) == (3 * 5, 3 * 3, 3 * 2)
