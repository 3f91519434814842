"""Shared-memory wavefronts: how many passes the banks need for one warp-wide access.

Model: 32 banks of 4 bytes. Up to 4 bytes per thread a warp's access is one request; 8 bytes per
thread make two half-warps, 16 bytes four quarter-warps. A request takes as many wavefronts as the
busiest bank has different words; threads that want the same word share it.
Source: CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x and newer; requests of
8 and 16 bytes as the profiler counts them when no two halves can be merged (an upper bound).
"""

from __future__ import annotations

import numpy as np

_NUM_BANKS = 32
_WORD = 4


def count_wavefronts(addresses: np.ndarray, num_bytes: int, threads: np.ndarray) -> tuple[int, int]:
    """Wavefronts of one instruction, and the least that any addresses would take.

    Args:
        addresses: (n,) shared-memory addresses of the active threads.
        num_bytes: width of one thread's access.
        threads: (n,) the threads' places in the group.
    """
    # Whole accesses lie side by side in the banks: units of their width instead of single words.
    unit = max(num_bytes, _WORD)
    num_banks = _NUM_BANKS * _WORD // unit
    request = threads // num_banks
    request = request - request[0]
    units = addresses.astype(np.int64) // unit
    # One number per (request, bank, unit), so that equal units of a request fall together.
    key = (request * num_banks + units % num_banks << 32) + units
    key.sort()
    is_new = np.empty(len(key), bool)
    is_new[0] = True
    np.not_equal(key[1:], key[:-1], out=is_new[1:])
    num_requests = int(request[-1]) + 1
    units_of_bank = np.bincount(key[is_new] >> 32, minlength=num_requests * num_banks)
    found = units_of_bank.reshape(num_requests, num_banks).max(axis=1)
    return int(found.sum()), int(np.count_nonzero(found))
