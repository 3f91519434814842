"""Shared-memory wavefronts: how many passes the banks need for one warp-wide access.

Model: 32 banks of 4 bytes. Up to 4 bytes per thread a warp's access is one request; 8 bytes per
thread make two half-warps, 16 bytes four quarter-warps. A request takes as many wavefronts as the
busiest bank has different words; threads that want the same word share it.
Source: CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x and newer; requests of
8 and 16 bytes as the profiler counts them when no two halves can be merged (an upper bound).
"""

from __future__ import annotations

import numpy as np

from ptx.geometry import WARP_SIZE

_NUM_BANKS = 32
_WORD = 4


def count_wavefronts(addresses: np.ndarray, num_bytes: int, threads: np.ndarray) -> tuple[int, int]:
    """Wavefronts of one instruction, and the least that any addresses would take.

    Args:
        addresses: (n,) shared-memory addresses of the active threads.
        num_bytes: width of one thread's access.
        threads: (n,) the threads' places in the group.
    """
    per_request = min(WARP_SIZE, WARP_SIZE * _WORD // num_bytes)
    words_each = max(1, num_bytes // _WORD)
    request = threads // per_request
    request = request - request[0]
    words = (addresses.astype(np.int64) // _WORD)[:, None] + np.arange(words_each)
    # One number per (request, bank, word), so that equal words of a request fall together.
    key = ((request[:, None] * _NUM_BANKS + words % _NUM_BANKS << 32) + words).reshape(-1)
    key.sort()
    is_new = np.empty(len(key), bool)
    is_new[0] = True
    np.not_equal(key[1:], key[:-1], out=is_new[1:])
    num_requests = int(request[-1]) + 1
    words_of_bank = np.bincount(key[is_new] >> 32, minlength=num_requests * _NUM_BANKS)
    found = words_of_bank.reshape(num_requests, _NUM_BANKS).max(axis=1)
    return int(found.sum()), int(np.count_nonzero(found))
