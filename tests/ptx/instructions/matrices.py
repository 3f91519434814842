"""Tensor-core instructions of one warp: mma, ldmatrix, stmatrix, movmatrix.

Lane l of a warp has group g = l / 4 and place t = l % 4. For m16n8k16:

    A (16 x 16)   register 2j + i: row g + 8i, columns 2t + 8j and 2t + 8j + 1
    B (16 x 8)    register j:      rows 2t + 8j and 2t + 8j + 1, column g
    C, D (16 x 8) register 2i + e: row g + 8i, column 2t + e

Products are exact and summed in float32; real tensor cores sum in another order and round their
partial sums otherwise, so results are compared with a tolerance.
Source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and ".m16n8k8",
"ldmatrix", "stmatrix".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.access import Operation, Read, address_reader, reader, vector_items, writer
from ptx.float_formats import FORMATS
from ptx.geometry import WARP_SIZE
from ptx.instructions.elementwise import check_modifiers, unsupported
from ptx.instructions.spaces import note_wavefronts
from ptx.instructions.warps import require_whole_warps
from ptx.machine import Machine, Mask
from ptx.scalar_types import TYPES
from ptx.syntax import Instruction

_Function = Callable[[np.ndarray], np.ndarray]
_B32 = TYPES["b32"]
_GROUPS, _PLACES = 8, 4
_ROW_BYTES = 16
_KEPT_MATRICES = 32


def multiply_accumulate(instruction: Instruction) -> Operation:
    """mma.sync of float16 or bfloat16 matrices, accumulated in float32 or float16."""
    check_modifiers(instruction, "sync aligned row col m16n8k8 m16n8k16")
    shape = instruction.modifiers[2]
    kinds = [modifier for modifier in instruction.modifiers if modifier in TYPES]
    if len(kinds) != 4 or kinds[1] != kinds[2] or kinds[0] != kinds[3]:
        raise unsupported(instruction, "unknown types of mma")
    if kinds[0] not in ("f32", "f16") or kinds[1] not in ("f16", "bf16"):
        raise unsupported(instruction, "unknown types of mma")
    depth_halves = 2 if shape == "m16n8k16" else 1
    d, a, b, c = (vector_items(operand) for operand in instruction.operands)
    accumulator = TYPES["f32" if kinds[0] == "f32" else "b32"]
    counts = (4 if kinds[0] == "f32" else 2, 2 * depth_halves, depth_halves)
    if (len(d), len(a), len(b)) != counts or len(c) != len(d):
        raise unsupported(instruction, "wrong number of fragment registers")
    reads_a, reads_b = ([reader(item, _B32) for item in items] for items in (a, b))
    reads_c = [reader(item, accumulator) for item in c]
    writes = [writer(item, accumulator) for item in d]
    decode = FORMATS[kinds[1] + "x2"].decode
    halves = FORMATS["f16x2"]

    def operation(machine: Machine, mask: Mask) -> None:
        require_whole_warps(machine, mask)
        left = _matrix(machine, reads_a, decode, left_matrix)
        right = _matrix(machine, reads_b, decode, _right_matrix)
        product = np.matmul(left, right)  # (warps, 16, 8)
        # (warps, i, g, t, e) -> (i, warps, g, t, e)
        parts = product.reshape(-1, 2, _GROUPS, _PLACES, 2).transpose(1, 0, 2, 3, 4)
        if kinds[0] == "f32":
            for number, (read, write) in enumerate(zip(reads_c, writes, strict=True)):
                part = parts[number // 2, ..., number % 2].reshape(-1)
                write(machine, part + read(machine), mask)
            return
        for part, read, write in zip(parts, reads_c, writes, strict=True):
            total = part.reshape(-1, 2) + halves.decode(_whole(machine, read))
            write(machine, halves.encode(total), mask)

    return operation


def _whole(machine: Machine, read: Read) -> np.ndarray:
    value = read(machine)
    return value if value.ndim else np.full(machine.num_threads, value)


def _matrix(
    machine: Machine, reads: list[Read], decode: _Function, arrange: _Function
) -> np.ndarray:
    """A matrix of every warp, float32, out of its registers; those used last are kept.

    A fragment serves several products, and registers are never changed in place: the same arrays
    are the same matrix.
    """
    words = [_whole(machine, read) for read in reads]
    key = (arrange, decode, *map(id, words))
    kept = machine.matrices.get(key)
    if kept is not None:
        return kept[0]
    values = decode(np.concatenate(words))
    matrix = arrange(values.reshape(len(words), -1, _GROUPS, _PLACES, 2))
    if len(machine.matrices) >= _KEPT_MATRICES:
        machine.matrices.pop(next(iter(machine.matrices)))
    machine.matrices[key] = (matrix, words)
    return matrix


def left_matrix(values: np.ndarray) -> np.ndarray:
    """A's registers (2j + i, warps, g, t, e) -> (warps, 16, 8 or 16)."""
    count, warps = values.shape[:2]
    parts = values.reshape(count // 2, 2, warps, _GROUPS, _PLACES, 2)
    return parts.transpose(2, 1, 3, 0, 4, 5).reshape(warps, 16, 4 * count)


def _right_matrix(values: np.ndarray) -> np.ndarray:
    """B's registers (j, warps, g, t, e) -> (warps, 8 or 16, 8)."""
    count, warps = values.shape[:2]
    return values.transpose(1, 0, 3, 4, 2).reshape(warps, 8 * count, 8)


def load_matrix(instruction: Instruction) -> Operation:
    """ldmatrix: 8 x 8 matrices of 16-bit values, row r of matrix i at the address of lane 8i + r.

    Lane l gets elements 2t and 2t + 1 of row g; of the transposed matrix with .trans.
    """
    modifiers = _matrix_modifiers(instruction)
    writes = [writer(item, _B32) for item in vector_items(instruction.operands[0])]
    _check_count(instruction, modifiers, len(writes))
    read_address = address_reader(instruction.operands[1])

    def operation(machine: Machine, mask: Mask) -> None:
        require_whole_warps(machine, mask)
        rows, addresses = _row_addresses(machine, mask, read_address, len(writes))
        note_wavefronts(machine, addresses, _ROW_BYTES, rows, instruction.index)
        words = machine.shared.load(addresses, _B32, 4, rows)  # (warps * matrices * 8 rows, 4)
        if "trans" in modifiers:
            words = _transposed(words)
        matrices = words.reshape(-1, len(writes), WARP_SIZE)
        for number, write in enumerate(writes):
            value = matrices[:, number].reshape(-1)
            if mask is not None:
                whole = np.zeros(machine.num_threads, np.uint32)
                whole[machine.active(mask)] = value
                value = whole
            write(machine, value, mask)

    return operation


def _transposed(words: np.ndarray) -> np.ndarray:
    """Rows (matrices * 8, 4) of 8 x 8 matrices of 16-bit values, each transposed."""
    halves = np.ascontiguousarray(words).view(np.uint16).reshape(-1, _GROUPS, _GROUPS)
    return np.ascontiguousarray(halves.transpose(0, 2, 1)).view(np.uint32).reshape(-1, _PLACES)


def store_matrix(instruction: Instruction) -> Operation:
    """stmatrix: the reverse of ldmatrix."""
    modifiers = _matrix_modifiers(instruction)
    reads = [reader(item, _B32) for item in vector_items(instruction.operands[1])]
    _check_count(instruction, modifiers, len(reads))
    read_address = address_reader(instruction.operands[0])

    def operation(machine: Machine, mask: Mask) -> None:
        require_whole_warps(machine, mask)
        rows, addresses = _row_addresses(machine, mask, read_address, len(reads))
        note_wavefronts(machine, addresses, _ROW_BYTES, rows, instruction.index)
        active = machine.active(mask)
        registers = [_whole(machine, read)[active].reshape(-1, WARP_SIZE) for read in reads]
        words = np.stack(registers, axis=1).reshape(-1, _PLACES)
        if "trans" in modifiers:
            words = _transposed(words)
        machine.shared.store(addresses, list(np.ascontiguousarray(words.T)), rows)

    return operation


def transpose_matrix(instruction: Instruction) -> Operation:
    """movmatrix: an 8 x 8 matrix of 16-bit values in a register of each lane, transposed."""
    if check_modifiers(instruction, "sync aligned m8n8 trans") != {
        *("sync", "aligned", "m8n8", "trans")
    }:
        raise unsupported(instruction, "unknown form of movmatrix")
    write, read = writer(instruction.operands[0], _B32), reader(instruction.operands[1], _B32)

    def operation(machine: Machine, mask: Mask) -> None:
        require_whole_warps(machine, mask)
        rows = _whole(machine, read).reshape(-1, _PLACES)
        write(machine, _transposed(rows).reshape(-1), mask)

    return operation


def _matrix_modifiers(instruction: Instruction) -> frozenset[str]:
    return check_modifiers(instruction, "sync aligned m8n8 x1 x2 x4 trans shared shared::cta")


def _check_count(instruction: Instruction, modifiers: frozenset[str], found: int) -> None:
    needed = next(count for count in (1, 2, 4) if f"x{count}" in modifiers)
    if found != needed:
        raise unsupported(instruction, f"{found} registers, needed {needed}")


def _row_addresses(
    machine: Machine, mask: Mask, read_address: Read, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Threads whose addresses are the rows of `count` matrices, and those addresses."""
    threads = machine.active(mask)
    rows = threads[machine.geometry.lane[threads] < _GROUPS * count]
    return rows, read_address(machine)[rows]
