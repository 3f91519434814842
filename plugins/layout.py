"""How a vector-quantized weight is laid out: sub-vectors, column order, index width, byte order.

One `Layout` describes all that a kernel must know besides the numbers themselves. It belongs to the
file format and, attribute by attribute, to the ONNX op (see schema.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from vq4dit.errors import ShapeError


class GroupOrder(IntEnum):
    """Which columns of a row one sub-vector holds.

    CONTIGUOUS: columns j*d .. j*d + d-1.
    MMA16 (d = 4): in every 16 columns sub-vector t = 0..3 holds {2t, 2t+1, 2t+8, 2t+9}.
    MMA32 (d = 8): in every 32 columns sub-vector t = 0..3 holds {2t, 2t+1} + {0, 8, 16, 24}.
    With the last two a codeword is exactly one thread's B fragment of mma.m16n8k16 (PTX ISA,
    "Matrix Fragments for mma.m16n8k16"), so that a GPU decodes it with one shared-memory load.
    """

    CONTIGUOUS = 0
    MMA16 = 1
    MMA32 = 2


#: Sub-vector length that each interleaved order is made for.
_ORDER_SUB_VECTOR_LEN = {GroupOrder.MMA16: 4, GroupOrder.MMA32: 8}

#: Columns after which the pattern repeats.
ORDER_PERIOD = {GroupOrder.MMA16: 16, GroupOrder.MMA32: 32}

#: Sub-vectors whose packed indices one kernel step reads together in layout FOUR_MAJOR.
WORD_POSITIONS = 4


class AssignmentLayout(IntEnum):
    """Order of the packed indices; each is a pad, a reshape and a transpose of ROWS.

    ROWS: (O, bytes_per_row), as stored in files.
    FOUR_MAJOR: (ceil(G / 4), O, word_bytes), the indices of four successive sub-vectors of one
    output beside each other, outputs contiguous: what the CPU kernel streams through.
    MMA_LANES: (ceil(I / 64), O, bytes per 64 columns), what each lane of a warp needs for 64
    columns beside each other: what the CUDA kernels read (cuda/assignment_layouts.py).
    """

    ROWS = 0
    FOUR_MAJOR = 1
    MMA_LANES = 2


#: Columns of the weight whose indices MMA_LANES keeps together: four steps of mma.m16n8k16.
STEP_COLUMNS = 64

#: Columns of a weight row that one lane of a warp decodes with one index, by order; in CONTIGUOUS
#: order an index serves one pair of columns at a time, whatever the sub-vector's length.
_LANE_COLUMNS = {GroupOrder.CONTIGUOUS: 2, GroupOrder.MMA16: 4, GroupOrder.MMA32: 8}


#: Orders that the CPU library and the op's function bodies read; any sizes fit them.
PORTABLE_LAYOUTS = (AssignmentLayout.ROWS, AssignmentLayout.FOUR_MAJOR)


#: Named configurations: bits per weight -> (codebook_size K, sub_vector_len d).
CONFIGURATIONS: dict[int, tuple[int, int]] = {1: (256, 8), 2: (256, 4), 3: (64, 2), 4: (256, 2)}


def default_group_order(in_features: int, sub_vector_len: int) -> GroupOrder:
    """The interleaved order made for this sub-vector length where in_features allows it."""
    for order, length in _ORDER_SUB_VECTOR_LEN.items():
        if length == sub_vector_len and in_features % ORDER_PERIOD[order] == 0:
            return order
    return GroupOrder.CONTIGUOUS


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything about a quantized weight (O, I) but its numbers and O itself.

    Args:
        in_features: I, columns of the weight.
        codebook_size: K, 1..256 codewords.
        sub_vector_len: d, divides I.
        group_order: columns of a sub-vector.
        assignment_layout: order of the packed bytes.
    Raises:
        ShapeError: the sizes do not fit each other.
    """

    in_features: int
    codebook_size: int
    sub_vector_len: int
    group_order: GroupOrder = GroupOrder.CONTIGUOUS
    assignment_layout: AssignmentLayout = AssignmentLayout.ROWS

    def __post_init__(self) -> None:
        """Check that the sizes fit each other; turn plain ints into enums."""
        try:
            object.__setattr__(self, "group_order", GroupOrder(self.group_order))
            object.__setattr__(self, "assignment_layout", AssignmentLayout(self.assignment_layout))
        except ValueError as error:
            raise ShapeError(f"layout: {error}") from None
        if not 1 <= self.codebook_size <= 256:
            raise ShapeError(f"codebook_size is {self.codebook_size}, needed 1..256")
        if self.sub_vector_len < 1 or self.in_features < 1:
            raise ShapeError(
                f"in_features {self.in_features} and sub_vector_len {self.sub_vector_len} "
                "must be positive"
            )
        if self.in_features % self.sub_vector_len:
            raise ShapeError(
                f"in_features {self.in_features} is not a multiple of sub_vector_len "
                f"{self.sub_vector_len}; choose a divisor"
            )
        needed = _ORDER_SUB_VECTOR_LEN.get(self.group_order)
        if needed is not None:
            period = ORDER_PERIOD[self.group_order]
            if self.sub_vector_len != needed or self.in_features % period:
                raise ShapeError(
                    f"group_order {self.group_order.name.lower()} needs sub_vector_len {needed} "
                    f"and in_features a multiple of {period}; found {self.sub_vector_len} and "
                    f"{self.in_features}; use contiguous"
                )

        if self.assignment_layout == AssignmentLayout.MMA_LANES:
            self._check_lanes()

    def _check_lanes(self) -> None:
        """Raise ShapeError unless lanes of a warp get whole, aligned bytes of a row."""
        length, lane_bits = self.sub_vector_len, self.lane_indices * self.index_bits
        parts = STEP_COLUMNS // length // self.lane_indices if length in (2, 4, 8) else 0
        if parts == 0 or lane_bits not in (16, 32, 48, 64) or (lane_bits == 48 and parts % 2):
            raise ShapeError(
                f"assignment layout mma_lanes is not made for sub_vector_len {length} with "
                f"codebook_size {self.codebook_size} in order {self.group_order.name.lower()}; "
                "needed: sub_vector_len 2, 4 or 8 with 65..256 codewords, or 2 with 17..64"
            )

    @property
    def num_sub_vectors(self) -> int:
        """G, sub-vectors per row."""
        return self.in_features // self.sub_vector_len

    @property
    def index_bits(self) -> int:
        """Bits of one packed index: 4, 6 or 8, by the codebook's size."""
        return 4 if self.codebook_size <= 16 else 6 if self.codebook_size <= 64 else 8

    @property
    def word_bytes(self) -> int:
        """Bytes that hold WORD_POSITIONS packed indices: 2, 3 or 4."""
        return WORD_POSITIONS * self.index_bits // 8

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row in layout ROWS: whole groups (two 4-bit, four 6-bit, one 8-bit)."""
        indices, size = {4: (2, 1), 6: (4, 3), 8: (1, 1)}[self.index_bits]
        return -(-self.num_sub_vectors // indices) * size

    @property
    def lane_indices(self) -> int:
        """Indices that one lane of a warp needs for one row and STEP_COLUMNS columns."""
        return STEP_COLUMNS // 4 // _LANE_COLUMNS[self.group_order]

    @property
    def lane_bytes(self) -> int:
        """Bytes of them in MMA_LANES."""
        return self.lane_indices * self.index_bits // 8

    @property
    def step_bytes(self) -> int:
        """Bytes of one row and STEP_COLUMNS columns in MMA_LANES."""
        return STEP_COLUMNS // self.sub_vector_len * self.index_bits // 8

    def assignments_shape(self, out_features: int) -> tuple[int, ...]:
        """Shape of the packed int8 tensor for a weight of out_features rows."""
        if self.assignment_layout == AssignmentLayout.ROWS:
            return (out_features, self.bytes_per_row)
        if self.assignment_layout == AssignmentLayout.MMA_LANES:
            return (-(-self.in_features // STEP_COLUMNS), out_features, self.step_bytes)
        return (-(-self.num_sub_vectors // WORD_POSITIONS), out_features, self.word_bytes)

    def out_features_from(self, assignments_shape: tuple[int, ...]) -> int:
        """O of a packed tensor of this shape; ShapeError if the shape does not belong here."""
        axis = 0 if self.assignment_layout == AssignmentLayout.ROWS else 1
        rank = 2 if self.assignment_layout == AssignmentLayout.ROWS else 3
        if len(assignments_shape) == rank:
            out_features = assignments_shape[axis]
            if assignments_shape == self.assignments_shape(out_features) and out_features > 0:
                return out_features
        template = tuple(self.assignments_shape(1))
        needed = tuple("O" if i == axis else n for i, n in enumerate(template))
        raise ShapeError(
            f"assignments have shape {assignments_shape}, needed {needed} for in_features "
            f"{self.in_features}, codebook_size {self.codebook_size}, sub_vector_len "
            f"{self.sub_vector_len}, layout {self.assignment_layout.name.lower()}"
        )


def layout_from_bits(
    in_features: int, bits: int, assignment_layout: AssignmentLayout = AssignmentLayout.ROWS
) -> Layout:
    """The layout of a named configuration, in the column order that GPUs read best.

    Args:
        in_features: I, columns of the weight.
        bits: a key of CONFIGURATIONS.
        assignment_layout: order of the packed bytes.
    Raises:
        ShapeError: sub-vectors of this configuration do not fill I columns.
    """
    codebook_size, sub_vector_len = CONFIGURATIONS[bits]
    return Layout(
        in_features=in_features,
        codebook_size=codebook_size,
        sub_vector_len=sub_vector_len,
        group_order=default_group_order(in_features, sub_vector_len),
        assignment_layout=assignment_layout,
    )
