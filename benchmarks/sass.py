"""What machine code (SASS) of a cubin holds: resources, and instructions of the main loop by class.

Reads what NVIDIA's nvdisasm and cuobjdump print (on PyPI nvidia-cuda-nvdisasm and -cuobjdump).
The main loop is the innermost backward branch around the most tensor-core instructions; in a kernel
without any, around the most shared-memory loads.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

#: Class of instructions -> pattern of their names; the first that fits counts.
_CLASSES = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("HMMA", r"HMMA|HGMMA|UTCHMMA"),
        ("LDSM", r"LDSM"),
        ("LDS", r"LDS\b"),
        ("STS", r"STS\b"),
        ("LDGSTS", r"LDGSTS"),
        ("LDG", r"LDG\b"),
        ("STG", r"STG\b"),
        ("local", r"LDL|STL"),
        ("SHFL", r"SHFL"),
        ("barrier", r"BAR|SYNCS|DEPBAR|LDGDEPBAR|ARRIVES|WARPSYNC|MEMBAR"),
        ("branch", r"BRA|EXIT|BSSY|BSYNC|CALL|RET"),
        ("float", r"FFMA|FADD|FMUL|MUFU|F2F|FSET|FMNMX|HADD|HFMA|HMUL|PACK|F2FP"),
        ("nop", r"NOP"),
    )
)
#: All that is in none of them: integer arithmetic, moves, predicates.
_OTHER = "ALU"
_TENSOR, _SHARED_LOAD, _LOCAL = "HMMA", "LDS", "local"

_SECTION = re.compile(r"^\s*\.section\s+\.text\.(\w+)", re.M)
_LABEL = re.compile(r"\s*(\.L_\w+):")
_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(\w[\w.]*)(.*)")
_TARGET = re.compile(r"`?\(?(\.L_\w+)")


@dataclass(frozen=True, kw_only=True)
class KernelCode:
    """One kernel's machine code.

    Args:
        name: entry point; registers: of a thread; stack_bytes: of a thread.
        spills: instructions that move registers to or from local memory.
        instructions: of the whole kernel; loop: of one round of the main loop by class.
    """

    name: str
    registers: int
    stack_bytes: int
    spills: int
    instructions: int
    loop: dict[str, int]

    @property
    def loop_length(self) -> int:
        """Instructions of one round of the main loop."""
        return sum(self.loop.values())


def find_tool(name: str) -> Path | None:
    """A tool of the CUDA toolkit: on PATH, or from its wheel; None where there is none."""
    found = shutil.which(name)
    if found:
        return Path(found)
    try:
        installed = files(f"nvidia-cuda-{name}") or []
    except PackageNotFoundError:
        return None
    for file in installed:
        path = Path(str(file.locate()))
        if file.name == name and path.is_file():
            return path
    return None


def read_cubin(cubin: bytes) -> list[KernelCode]:
    """Every kernel of a cubin.

    Raises:
        SystemExit: nvdisasm or cuobjdump is missing.   CalledProcessError: it refused the cubin.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        usage = _resources(_run("cuobjdump", "-res-usage", str(path)))
        text = _run("nvdisasm", "-c", str(path))
    return [
        _kernel_code(name, list(_instructions(body)), *usage[name])
        for name, body in _sections(text)
    ]


@dataclass(frozen=True, kw_only=True)
class _Instruction:
    name: str
    label: str  # of this place, "" if none
    target: str  # that it may branch to, "" if none


def _run(tool: str, *arguments: str) -> str:
    path = find_tool(tool)
    if path is None:
        raise SystemExit(f"{tool} is missing: {sys.executable} -m pip install nvidia-cuda-{tool}")
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _resources(text: str) -> dict[str, tuple[int, int]]:
    """Kernel -> registers, stack bytes."""
    pattern = re.compile(r"Function (\w+):\s*\n\s*REG:(\d+) STACK:(\d+)")
    return {name: (int(regs), int(stack)) for name, regs, stack in pattern.findall(text)}


def _sections(text: str) -> Iterator[tuple[str, str]]:
    starts = list(_SECTION.finditer(text))
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        yield start[1], text[start.end() : following.start() if following else len(text)]


def _instructions(body: str) -> Iterator[_Instruction]:
    label = ""
    for line in body.splitlines():
        found = _LABEL.match(line)
        if found:
            label = found[1]
            continue
        found = _INSTRUCTION.match(line)
        if not found:
            continue
        target = _TARGET.search(found[3]) if found[2].startswith("BRA") else None
        yield _Instruction(name=found[2], label=label, target=target[1] if target else "")
        label = ""


def _kernel_code(
    name: str, instructions: list[_Instruction], registers: int, stack_bytes: int
) -> KernelCode:
    return KernelCode(
        name=name,
        registers=registers,
        stack_bytes=stack_bytes,
        spills=_count(instructions)[_LOCAL],
        instructions=len(instructions),
        loop=dict(_main_loop(instructions)),
    )


def _main_loop(instructions: list[_Instruction]) -> Counter[str]:
    """Classes of the innermost loop with the most of what the kernel is about; empty if none."""
    place = {item.label: i for i, item in enumerate(instructions) if item.label}
    loops = [
        instructions[place[item.target] : end + 1]
        for end, item in enumerate(instructions)
        if item.target in place and place[item.target] <= end
    ]
    for wanted in (_TENSOR, _SHARED_LOAD):
        counted = [_count(loop) for loop in loops]
        best = [c for c in counted if c[wanted] and c[wanted] == max(x[wanted] for x in counted)]
        if best:
            return min(best, key=lambda c: sum(c.values()))
    return Counter()


def _count(instructions: list[_Instruction]) -> Counter[str]:
    return Counter(_class(item.name) for item in instructions)


def _class(name: str) -> str:
    for kind, pattern in _CLASSES:
        if pattern.match(name):
            return kind
    return _OTHER
