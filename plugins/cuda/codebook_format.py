"""What the cost model knows of a quantized weight: how many bytes its parts take."""

from __future__ import annotations

from dataclasses import dataclass

from vq4dit.errors import OptionError
from vq4dit.plugins.layout import CONFIGURATIONS

_HALF = 2  # bytes of a float16
#: Bytes of shared memory that one codeword takes once it is replicated over all 32 banks.
_REPLICATED_CODEWORD = 128


@dataclass(frozen=True, kw_only=True)
class CodebookFormat:
    """How a quantized weight is stored: K codewords of d weights, `index_bits` per sub-vector."""

    codebook_size: int
    sub_vector_len: int
    index_bits: int
    row_groups: int = 1

    @classmethod
    def from_bits(cls, bits: int, *, row_groups: int = 1) -> CodebookFormat:
        """A named configuration, 1, 2, 3 or 4 bits per weight; OptionError for another one."""
        if bits not in CONFIGURATIONS:
            raise OptionError(f"bits is {bits}, needed one of {sorted(CONFIGURATIONS)}")
        size, length = CONFIGURATIONS[bits]
        return cls(
            codebook_size=size,
            sub_vector_len=length,
            index_bits=6 if size <= 64 else 8,
            row_groups=row_groups,
        )

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of packed assignments per weight, codebooks apart."""
        return self.index_bits / self.sub_vector_len / 8

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one codebook, replicated so that look-ups have no conflicts."""
        return (1 << self.index_bits) * _REPLICATED_CODEWORD

    def num_bytes(self, n: int, k: int) -> float:
        """Bytes of a weight (n, k): assignments, and codebooks in float16."""
        codebooks = self.row_groups * self.codebook_size * self.sub_vector_len * _HALF
        return n * k * self.bytes_per_weight + codebooks
