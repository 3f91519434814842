"""wgmma of Hopper: products of four warps, with B and perhaps A read from shared memory.

Warp w of a warpgroup holds rows 16w .. 16w + 15 of A (64 x 16) and of the sums (64 x N): of A as in
mma.m16n8k16, of the sums as N / 8 fragments of it one after the other. A matrix in shared memory is
given by a descriptor, here always "K-major", that is as rows of 16 columns:

    bits  0..13  start address     bits 32..45  stride: from 8 rows to the next 8
    bits 16..29  leading: without swizzle from 8 columns to the next 8
    bits 49..51  base offset, 0    bits 62..63  swizzle: 0 none, 1 128, 2 64, 3 32 bytes

all in units of 16 bytes. Rows of 8 lie `swizzle` bytes apart, and bits 4.. of an address are
XORed with as many of its bits 7.. as the swizzle has: 3, 2, 1; without it 16 bytes apart.
Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions": "Matrix Descriptor Format",
"Strides", "Register Fragments and Shared Memory Matrix Layouts"; "fence.proxy".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ptx.access import Operation, Read, immediate_value, reader, source_slots, vector_items, writer
from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.float_formats import FORMATS
from ptx.geometry import WARP_SIZE
from ptx.instructions.elementwise import check_modifiers, unsupported
from ptx.instructions.matrices import left_matrix
from ptx.instructions.warps import require_whole_warps
from ptx.machine import Machine, Mask
from ptx.scalar_types import TYPES
from ptx.syntax import Immediate, Instruction, Operand, Vector

_Decode = Callable[[np.ndarray], np.ndarray]
_WARPS = 4  # of a warpgroup
_WARP_ROWS = 16
_CHUNK = 16  # bytes: 8 columns
_SHAPE = re.compile(r"m64n(\d+)k16")
#: Swizzle of a descriptor -> bytes from one row of 8 to the next, bits that are XORed.
_SWIZZLES = {0: (16, 0), 1: (128, 3), 2: (64, 2), 3: (32, 1)}


def fence(instruction: Instruction) -> Operation:
    """fence.proxy.async; the others change nothing, since memory is in order here."""
    if instruction.modifiers[:1] != ("proxy",):
        return lambda _machine, _mask: None
    if instruction.modifiers not in (("proxy", "async"), ("proxy", "async", "shared::cta")):
        raise unsupported(instruction, "unknown fence")
    return lambda machine, mask: machine.ordering.fence_async_proxy(machine.warps(mask))


def product_slots(instructions: Sequence[Instruction]) -> frozenset[int]:
    """Registers of all products of a kernel: their sums and A."""
    products = (i for i in instructions if i.modifiers[:1] == ("mma_async",))
    return frozenset(slot for i in products for slot in source_slots(_registers(i)))


def _registers(instruction: Instruction) -> tuple[Vector, ...]:
    return tuple(item for item in instruction.operands[:2] if isinstance(item, Vector))


def warpgroup_product(instruction: Instruction) -> Operation:
    """wgmma.mma_async, and the instructions that fence, commit and wait."""
    action = instruction.modifiers[0]
    if action == "mma_async":
        return _product(instruction)
    if instruction.modifiers[1:] != ("sync", "aligned"):
        raise unsupported(instruction, "unknown form of wgmma")
    num_open = _constant(instruction, 0) if action == "wait_group" else 0

    def operation(machine: Machine, mask: Mask) -> None:
        warps = _warps(machine, mask)
        if action == "fence":
            machine.products.fence(warps)
        elif action == "commit_group":
            machine.products.commit(warps)
        else:
            machine.products.wait(warps, num_open)

    if action not in ("fence", "commit_group", "wait_group"):
        raise unsupported(instruction, f"unknown instruction wgmma.{action}")
    return operation


def _warps(machine: Machine, mask: Mask) -> np.ndarray:
    """Whole warps of whole warpgroups that execute the instruction."""
    require_whole_warps(machine, mask)
    if machine.geometry.warps_per_block % _WARPS:
        raise Fault(FailureKind.DIVERGENT_WARP, "the block's last warpgroup is not whole", thread=0)
    return machine.warps(mask)


def _constant(instruction: Instruction, place: int) -> int:
    operand = instruction.operands[place]
    if not isinstance(operand, Immediate):
        raise unsupported(instruction, "a constant is needed")
    return int(immediate_value(operand, TYPES["s32"]))


def _product(instruction: Instruction) -> Operation:
    columns, decode = _check_form(instruction)
    sums, a, b, add = instruction.operands[:4]
    shape = instruction.modifiers[3]
    read_left, a_slots = _left_reader(instruction, a, decode)
    read_b, read_add = reader(b, TYPES["b64"]), reader(add, TYPES["pred"])
    items, sum_slots = vector_items(sums), source_slots((sums,))
    reads = [reader(item, TYPES["f32"]) for item in items]
    writes = [writer(item, TYPES["f32"]) for item in items]

    def operation(machine: Machine, mask: Mask) -> None:
        warps = _warps(machine, mask)
        machine.products.begin(sum_slots, a_slots, shape, warps)
        left = read_left(machine, warps)
        first_row = np.zeros_like(warps)
        right = _from_shared(machine, instruction, read_b, first_row, columns, decode, warps)
        products = np.matmul(left, right.transpose(0, 2, 1))  # (warps, 16, columns)
        # (warps, half, g, j, t, e) -> (j, half, e, warps, g, t)
        parts = products.reshape(-1, 2, 8, columns // 8, 4, 2).transpose(3, 1, 5, 0, 2, 4)
        parts = parts.reshape(columns // 2, -1)
        threads = (warps[:, None] * WARP_SIZE + np.arange(WARP_SIZE)).reshape(-1)
        is_added = np.broadcast_to(read_add(machine), machine.num_threads)
        for part, read, write in zip(parts, reads, writes, strict=True):
            total = np.where(is_added, read(machine), np.float32(0))
            total[threads] += part
            write(machine, total, mask)

    return operation


def _check_form(instruction: Instruction) -> tuple[int, _Decode]:
    """Columns of a product and how its values are stored.

    Raises:
        UnsupportedPtx: a form of wgmma.mma_async that the emulator does not know.
    """
    shape, kinds = instruction.modifiers[3], instruction.modifiers[4:]
    match = _SHAPE.fullmatch(shape)
    check_modifiers(instruction, f"mma_async sync aligned {shape}")
    if match is None or kinds not in (("f32", "f16", "f16"), ("f32", "bf16", "bf16")):
        raise unsupported(instruction, "unknown shape or types of wgmma")
    columns, (sums, a) = int(match[1]), instruction.operands[:2]
    # Signs of A and B, then whether matrices in shared memory are transposed.
    options = [_constant(instruction, 4 + i) for i in range(len(instruction.operands) - 4)]
    if options != [1, 1, 0] + ([] if isinstance(a, Vector) else [0]):
        raise unsupported(instruction, "negated or transposed matrices")
    count = len(vector_items(sums))
    if count != columns // 2 or columns % 8 or not 8 <= columns <= 256:
        raise unsupported(instruction, f"{count} registers of {columns} columns")
    if isinstance(a, Vector) and len(a.items) != 4:
        raise unsupported(instruction, f"{len(a.items)} registers of A, needed 4")
    return columns, FORMATS[kinds[1] + "x2"].decode


def _left_reader(
    instruction: Instruction, a: Operand, decode: _Decode
) -> tuple[Callable[[Machine, np.ndarray], np.ndarray], tuple[int, ...]]:
    """What gives (warps, 16, 16) float32 of A, and the registers that it reads."""
    if isinstance(a, Vector):
        reads = [reader(item, TYPES["b32"]) for item in a.items]
        return partial(_left_from_registers, reads=reads, decode=decode), source_slots((a,))
    read = reader(a, TYPES["b64"])

    def from_shared(machine: Machine, warps: np.ndarray) -> np.ndarray:
        rows = warps % _WARPS * _WARP_ROWS
        return _from_shared(machine, instruction, read, rows, _WARP_ROWS, decode, warps)

    return from_shared, ()


def _left_from_registers(
    machine: Machine, warps: np.ndarray, *, reads: list[Read], decode: _Decode
) -> np.ndarray:
    """(warps, 16, 16) float32 of A in registers."""
    words = np.stack([read(machine).reshape(-1, WARP_SIZE)[warps] for read in reads])
    values = decode(words.reshape(-1))
    return left_matrix(values.reshape(4, len(warps), 8, 4, 2))


def _from_shared(
    machine: Machine,
    instruction: Instruction,
    read: Read,
    first_row: np.ndarray,
    num_rows: int,
    decode: _Decode,
    warps: np.ndarray,
) -> np.ndarray:
    """(warps, num_rows, 16) float32 of each warp's rows of a matrix in shared memory."""
    descriptors = read(machine).reshape(-1, WARP_SIZE)[warps]
    differing = (descriptors != descriptors[:, :1]).any(axis=1)
    if differing.any():
        raise Fault(
            FailureKind.DIVERGENT_WARP,
            "threads of a warp give different descriptors",
            thread=int(warps[first(differing)]) * WARP_SIZE,
        )
    if (descriptors >> np.uint64(49) & np.uint64(7)).any():
        raise unsupported(instruction, "a descriptor with a base offset")
    rows = first_row[:, None] + np.arange(num_rows)
    addresses = chunk_addresses(descriptors[:, 0], rows)
    data = machine.products.read_shared(addresses.reshape(len(warps), -1), _CHUNK, warps)
    return decode(np.ascontiguousarray(data).view(np.uint32).reshape(-1)).reshape(
        len(warps), num_rows, 16
    )


def chunk_addresses(descriptors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n, k, 2) addresses of 16 bytes: both halves of rows (n, k) of n matrices."""
    fields = {
        name: (descriptors >> np.uint64(bit) & np.uint64(mask)).astype(np.int64)[:, None, None]
        for name, bit, mask in (
            ("start", 0, 0x3FFF), ("leading", 16, 0x3FFF), ("stride", 32, 0x3FFF),
            ("swizzle", 62, 3),
        )
    }  # fmt: skip
    pitch, bits = (
        np.array([_SWIZZLES[int(s)][part] for s in fields["swizzle"].reshape(-1)])[:, None, None]
        for part in (0, 1)
    )
    half = np.arange(2)
    between = np.where(bits == 0, fields["leading"] * _CHUNK, _CHUNK)
    address = fields["start"] * _CHUNK + rows[:, :, None] // 8 * (fields["stride"] * _CHUNK)
    address = address + rows[:, :, None] % 8 * pitch + half * between
    return address ^ ((address >> 7 & ((1 << bits) - 1)) << 4)
