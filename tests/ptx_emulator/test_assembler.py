"""What NVIDIA's assembler computes from constants equals what the emulator computes.

ptxas replaces many instructions of constants by their results: its own knowledge of PTX,
independent of ours. The results are read off its machine code.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support_ptx import kernel_text, run_body

NUM_CASES = 48

#: instruction of %a, %b, %c -> how the three are drawn
INSTRUCTIONS = {
    "shf.l.wrap.b32 %d, %a, %b, 7": "bits",
    "shf.r.clamp.b32 %d, %a, %b, 32": "bits",
    "bfe.u32 %d, %a, 5, 9": "bits",
    "bfe.s32 %d, %a, 25, 30": "bits",
    "bfi.b32 %d, %a, %b, 3, 7": "bits",
    "popc.b32 %d, %a": "bits",
    "bfind.s32 %d, %a": "bits",
    "brev.b32 %d, %a": "bits",
    "mul.hi.s32 %d, %a, %b": "bits",
    "mad.lo.s32 %d, %a, %b, %c": "bits",
    "shr.s32 %d, %a, 40": "bits",
    "shl.b32 %d, %a, 33": "bits",
    "cvt.rn.f32.s32 %d, %a": "bits",
    "cvt.rn.f32.u32 %d, %a": "bits",
    "mul.rn.f32 %d, %a, %b": "floats",
    "min.f32 %d, %a, %b": "floats",
    "max.f32 %d, %a, %b": "floats",
    "cvt.rn.f16x2.f32 %d, %a, %b": "floats",
    "cvt.rni.s32.f32 %d, %a": "floats",
    "cvt.rzi.u32.f32 %d, %a": "floats",
}


@pytest.fixture(scope="module")
def tools() -> tuple[str, str]:
    return _packaged("ptxas"), _packaged("nvdisasm")


def _packaged(name: str) -> str:
    """A program of NVIDIA's packages; skips the tests without it."""
    found = [file for folder in sys.path for file in Path(folder).glob(f"nvidia/cu*/bin/{name}")]
    if not found:
        pytest.skip(f"{name} is not installed")
    return str(found[0])


def drawn(kind: str) -> np.ndarray:
    """(NUM_CASES, 3) operands."""
    rng = np.random.default_rng(13)
    if kind == "bits":
        return rng.integers(0, 2**32, (NUM_CASES, 3), np.uint32)
    values = rng.standard_normal((NUM_CASES, 3)) * 10.0 ** rng.uniform(-6, 6, (NUM_CASES, 3))
    return values.astype(np.float32).view(np.uint32)


def body_of(instruction: str) -> str:
    lines = []
    for number, case in enumerate(drawn(INSTRUCTIONS[instruction])):
        lines += [f"mov.b32 %{name}, {value:#x};" for name, value in zip("abc", case, strict=True)]
        lines.append(f"{instruction}; st.global.b32 [%rd0+{4 * number}], %d;")
    return "\n".join(lines)


def stored_constants(assembly: str) -> dict[int, int]:
    """Offset -> constant that is stored there, of straight machine code."""
    registers: dict[str, int] = {"RZ": 0}
    stored = {}
    for line in assembly.splitlines():
        match = re.search(r"/\*[0-9a-f]{4,}\*/\s+(@\S+ )?(\S+) (.*?) ;", line)
        if match is None:
            continue
        _, mnemonic, operands = match.groups()
        if mnemonic.startswith("STG"):
            place = re.fullmatch(r"\[R\d+\.64(?:\+(0x[0-9a-f]+))?\], (R\w+)", operands)
            if place and place[2] in registers:
                stored[int(place[1] or "0", 16)] = registers[place[2]] & 0xFFFFFFFF
            continue
        moved = re.fullmatch(r"(R\d+), (?:RZ, RZ, )?(-?0x[0-9a-f]+|RZ)", operands)
        target = re.match(r"R(\d+)", operands)
        if target:
            for wide in range(4):  # what else may hold several registers
                registers.pop(f"R{int(target[1]) + wide}", None)
        if moved and mnemonic in ("MOV", "IMAD.MOV.U32"):
            registers[moved[1]] = 0 if moved[2] == "RZ" else int(moved[2], 16)
    return stored


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_assembler_and_emulator_agree(instruction, tools, tmp_path):
    ptxas, nvdisasm = tools
    body = body_of(instruction)
    declarations = ".reg .b32 %a, %b, %c, %d;"
    found = np.zeros(NUM_CASES, np.uint32)
    run_body(body, [found], block=1, declarations=declarations)

    text = kernel_text(body, num_buffers=1, declarations=declarations)
    (tmp_path / "k.ptx").write_text(text.replace("sm_80", "sm_86"))
    for command in (
        [ptxas, "-arch=sm_86", "-O3", "k.ptx", "-o", "k.cubin"],
        [nvdisasm, "-c", "k.cubin"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = stored_constants(done.stdout)
    assert len(expected) >= NUM_CASES // 4, "ptxas computes these no more"
    assert {place: int(found[place // 4]) for place in expected} == expected
