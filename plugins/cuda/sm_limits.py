"""What one multiprocessor (SM) holds at the same time, by compute capability.

Source: CUDA Programming Guide, appendix "Compute Capabilities", table of technical specifications.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from vq4dit.errors import OptionError

WARP = 32
#: Dynamic shared memory of a block that a launch has without asking for more (same appendix).
UNASKED_SHARED_BYTES = 48 * 1024
#: The most that a block may ask for on any GPU of the table: compute capability 9.0 to 11.0.
LARGEST_SHARED_BYTES = 227 * 1024

_RESERVED_SHARED = 1024  # bytes that the system takes of every block's shared memory
_REGISTER_UNIT = 256  # registers are given to warps in units of this many
_KIB = 1 << 10


@dataclass(frozen=True, kw_only=True)
class SmLimits:
    """Of one SM: bytes of shared memory, threads, blocks and registers."""

    shared_bytes: int
    threads: int
    blocks: int
    registers: int = 65536

    def resident_blocks(self, *, threads: int, registers: int, shared_bytes: int) -> int:
        """Blocks at the same time, of this many threads, registers per thread and bytes each.

        0 where not even one fits.
        """
        warp_registers = ceil(registers * WARP / _REGISTER_UNIT) * _REGISTER_UNIT
        return min(
            self.blocks,
            self.threads // threads,
            self.registers // (warp_registers * ceil(threads / WARP)),
            self.shared_bytes // (shared_bytes + _RESERVED_SHARED),
        )


#: Compute capability times ten -> limits.
SM_LIMITS = {
    80: SmLimits(shared_bytes=164 * _KIB, threads=2048, blocks=32),
    86: SmLimits(shared_bytes=100 * _KIB, threads=1536, blocks=16),
    87: SmLimits(shared_bytes=164 * _KIB, threads=1536, blocks=16),
    89: SmLimits(shared_bytes=100 * _KIB, threads=1536, blocks=24),
    90: SmLimits(shared_bytes=228 * _KIB, threads=2048, blocks=32),
    100: SmLimits(shared_bytes=228 * _KIB, threads=2048, blocks=32),
    110: SmLimits(shared_bytes=228 * _KIB, threads=1536, blocks=24),
    120: SmLimits(shared_bytes=100 * _KIB, threads=1536, blocks=24),
}


def sm_limits(compute_capability: int) -> SmLimits:
    """Limits of a compute capability times ten, such as 87; OptionError for an unknown one."""
    if compute_capability not in SM_LIMITS:
        raise OptionError(
            f"compute capability {compute_capability} is not in the table; known are "
            f"{', '.join(map(str, SM_LIMITS))}"
        )
    return SM_LIMITS[compute_capability]
