"""The meaning of every instruction, by opcode."""

from __future__ import annotations

from collections.abc import Callable

from ptx.access import OperandError, Operation
from ptx.instructions import (
    async_copies,
    atomics,
    bits,
    comparisons,
    conversions,
    floats,
    integers,
    matrices,
    moves,
    warpgroups,
    warps,
)
from ptx.instructions.elementwise import (
    Elementwise,
    compile_elementwise,
    operand_type,
    unsupported,
)
from ptx.syntax import Instruction

_Meaning = Callable[[Instruction], Elementwise]

#: opcode -> (meaning for integers and bits, meaning for floats)
_BY_TYPE: dict[str, tuple[_Meaning | None, _Meaning | None]] = {
    "add": (integers.add, floats.add),
    "sub": (integers.subtract, floats.subtract),
    "mul": (integers.multiply, floats.multiply),
    "mad": (integers.multiply_add, floats.multiply_add),
    "fma": (None, floats.multiply_add),
    "div": (integers.divide, floats.divide),
    "rem": (integers.remainder, None),
    "min": (integers.smaller, floats.smaller),
    "max": (integers.larger, floats.larger),
    "neg": (integers.negate, floats.negate),
    "abs": (integers.magnitude, floats.magnitude),
}

_ELEMENTWISE: dict[str, _Meaning] = {
    "sad": integers.sum_of_absolute_differences,
    "dp4a": integers.four_way_dot,
    "and": bits.both,
    "or": bits.either,
    "xor": bits.exclusive,
    "not": bits.invert,
    "cnot": bits.logical_not,
    "lop3": bits.three_input_logic,
    "shl": bits.shift_left,
    "shr": bits.shift_right,
    "shf": bits.funnel_shift,
    "bfe": bits.extract_field,
    "bfi": bits.insert_field,
    "prmt": bits.permute_bytes,
    "popc": bits.count_ones,
    "clz": bits.count_leading_zeros,
    "bfind": bits.find_uppermost,
    "brev": bits.reverse_bits,
    "copysign": floats.copy_sign,
    "rcp": floats.reciprocal,
    "sqrt": floats.square_root,
    "rsqrt": floats.reciprocal_square_root,
    "ex2": floats.power_of_two,
    "lg2": floats.logarithm_of_two,
    "sin": floats.sine,
    "cos": floats.cosine,
    "tanh": floats.hyperbolic_tangent,
    "cvt": conversions.convert,
    "set": comparisons.set_number,
    "selp": comparisons.select,
    "slct": comparisons.select_by_sign,
    "testp": comparisons.number_property,
}

_OPERATIONS: dict[str, Callable[[Instruction], Operation]] = {
    "addc": integers.add_with_carry,
    "subc": integers.add_with_carry,
    "setp": comparisons.set_predicate,
    "mov": moves.move,
    "ld": moves.load,
    "ldu": moves.load,
    "st": moves.store,
    "cvta": moves.convert_address,
    "cp": async_copies.copy,
    "shfl": warps.shuffle,
    "vote": warps.vote,
    "activemask": warps.active_mask,
    "redux": warps.reduce_warp,
    "mma": matrices.multiply_accumulate,
    "ldmatrix": matrices.load_matrix,
    "stmatrix": matrices.store_matrix,
    "movmatrix": matrices.transpose_matrix,
    "wgmma": warpgroups.warpgroup_product,
    "fence": warpgroups.fence,
    "atom": atomics.atomic,
    "red": atomics.atomic,
}

#: What changes nothing that the emulator models: hints, and fences, since memory is in order here.
_NOTHING = {"membar", "prefetch", "prefetchu", "nanosleep", "pmevent"}

#: What execution handles itself, because it changes where threads are.
CONTROL = {"bra", "ret", "exit", "trap", "bar", "barrier"}

#: Opcodes whose first operand is read, not written.
WITHOUT_DESTINATION = {
    *("st", "cp", "red", "stmatrix", "prefetch", "prefetchu", "wgmma"),  # wgmma: read as well
    *CONTROL,
}


def compile_instruction(instruction: Instruction) -> Operation:
    """The operation of one instruction that does not change where threads are.

    Raises:
        UnsupportedPtx: an instruction, or a form of it, that the emulator does not know.
    """
    try:
        return _compile(instruction)
    except OperandError as error:
        raise unsupported(instruction, str(error)) from error
    except (IndexError, KeyError, StopIteration, ValueError) as error:
        raise unsupported(instruction, "a form that the emulator does not know") from error


def _compile(instruction: Instruction) -> Operation:
    opcode = instruction.opcode
    if opcode in _NOTHING:
        return lambda _machine, _mask: None
    if opcode == "bar" and instruction.modifiers[:1] == ("warp",):
        return warps.warp_barrier(instruction)
    if opcode in ("add", "sub") and "cc" in instruction.modifiers:
        return integers.add_with_carry(instruction)
    if opcode in _OPERATIONS:
        return _OPERATIONS[opcode](instruction)
    if opcode in _BY_TYPE:
        meaning = _BY_TYPE[opcode][operand_type(instruction).is_float]
    else:
        meaning = _ELEMENTWISE.get(opcode)
    if meaning is None:
        raise unsupported(instruction, f"unknown instruction {opcode}")
    return compile_elementwise(instruction, meaning(instruction))
