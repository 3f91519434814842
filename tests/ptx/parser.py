"""PTX text -> one kernel: declarations and instructions, with scopes, labels and lines resolved.

Directives that only inform (debug lines, pragmas, launch hints) are passed over; everything else
that is not known stops with the line's number.
Source: PTX ISA, chapters "Syntax" and "Directives".
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field, replace

from ptx.declarations import (
    max_threads,
    parse_parameters,
    parse_registers,
    parse_variable,
)
from ptx.failures import UnsupportedPtx
from ptx.operands import parse_operand, split_operands
from ptx.scalar_types import ScalarType
from ptx.syntax import Instruction, Kernel, Operand, Register, Symbol, Variable

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_LABEL = re.compile(r"([$%\w]+)\s*:(?!:)")
_LINE_DIRECTIVE = re.compile(r"\.(?:loc|file|section)\b[^\n]*")
_STATEMENT = re.compile(r"[^;]*;")
_INSTRUCTION = re.compile(r"(?:@(!?)\s*([%$\w]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
_SPACE = re.compile(r"\s+")
_MODULE_VARIABLE = re.compile(
    r"^[ \t]*((?:\.(?:visible|extern|weak)\s+)?\.(?:shared|global|const)\s[^;]*);", re.M
)


@dataclass
class _Scope:
    """Names between two braces; inline assembly declares the same ones again and again."""

    registers: dict[str, Register] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)


class _Body:
    """What has been read of a kernel's body."""

    def __init__(self, line_of: _LineOf) -> None:
        self.line_of = line_of
        self.scopes = [_Scope()]
        self.num_registers = 0
        self.instructions: list[Instruction] = []
        self.branches: list[tuple[int, tuple[_Scope, ...]]] = []
        self.variables: dict[str, list[Variable]] = {"shared": [], "local": []}

    def find_register(self, name: str) -> Register | None:
        for scope in reversed(self.scopes):
            if name in scope.registers:
                return scope.registers[name]
        return None

    def declare_registers(self, names: list[tuple[str, ScalarType]]) -> None:
        for name, scalar_type in names:
            self.scopes[-1].registers[name] = Register(name, self.num_registers, scalar_type)
            self.num_registers += 1

    def resolve_branches(self) -> None:
        for index, scopes in self.branches:
            branch = self.instructions[index]
            label = branch.operands[0]
            name = label.name if isinstance(label, Symbol) else ""
            targets = [scope.labels[name] for scope in reversed(scopes) if name in scope.labels]
            if not targets:
                raise UnsupportedPtx(
                    f"branch to an unknown label {name!r}", line=branch.line, text=branch.text
                )
            self.instructions[index] = replace(branch, target=targets[0])


class _LineOf:
    """Place in the text -> line number, from 1."""

    def __init__(self, text: str) -> None:
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def __call__(self, place: int) -> int:
        return bisect_right(self._ends, place - 1) + 1


def entry_names(ptx: str) -> list[str]:
    """Names of all kernels in a PTX text, in its order."""
    return re.findall(r"\.entry\s+([$\w]+)", _without_comments(ptx))


def parse_kernel(ptx: str, name: str) -> Kernel:
    """Read one kernel.

    Raises:
        UnsupportedPtx: no such kernel, or a statement that the emulator does not know.
    """
    text = _without_comments(ptx)
    line_of = _LineOf(text)
    entry = re.search(r"\.entry\s+" + re.escape(name) + r"\s*(?:\(([^)]*)\))?([^{]*)\{", text)
    if entry is None:
        known = ", ".join(entry_names(ptx)) or "none"
        raise UnsupportedPtx(f"no kernel {name!r}; found: {known}", line=1, text=text[:40])
    body = _Body(line_of)
    _parse_body(text, entry.end(), body)
    body.resolve_branches()
    module = _module_variables(text, line_of)
    return Kernel(
        name=name,
        parameters=parse_parameters(entry[1] or "", line=line_of(entry.start())),
        instructions=tuple(body.instructions),
        num_registers=body.num_registers,
        shared=(*body.variables["shared"], *module["shared"]),
        local=tuple(body.variables["local"]),
        globals=tuple(module["global"]),
        constants=tuple(module["const"]),
        max_threads=max_threads(entry[2]),
    )


def _without_comments(ptx: str) -> str:
    """Comments as blanks, so that places and lines stay."""
    return _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), ptx)


def _module_variables(text: str, line_of: _LineOf) -> dict[str, list[Variable]]:
    found: dict[str, list[Variable]] = {"shared": [], "global": [], "const": []}
    depth_changes = [(m.start(), 1 if m[0] == "{" else -1) for m in re.finditer("[{}]", text)]
    for match in _MODULE_VARIABLE.finditer(text):
        depth = sum(change for place, change in depth_changes if place < match.start())
        if depth == 0:
            space, variable = parse_variable(match[1], line=line_of(match.start(1)))
            found[space].append(variable)
    return found


def _parse_body(text: str, place: int, body: _Body) -> None:
    """Read statements from `place` to the brace that closes the kernel."""
    while True:
        if text[place].isspace():
            place += 1
        elif text[place] == "{":
            body.scopes.append(_Scope())
            place += 1
        elif text[place] == "}":
            body.scopes.pop()
            place += 1
            if not body.scopes:
                return
        elif label := _LABEL.match(text, place):
            body.scopes[-1].labels[label[1]] = len(body.instructions)
            place = label.end()
        elif directive := _LINE_DIRECTIVE.match(text, place):
            place = directive.end()
        else:
            statement = _STATEMENT.match(text, place)
            if statement is None:
                raise UnsupportedPtx(
                    "statement without end", line=body.line_of(place), text=text[place : place + 60]
                )
            _parse_statement(statement[0][:-1], body, line=body.line_of(place))
            place = statement.end()


def _parse_statement(statement: str, body: _Body, *, line: int) -> None:
    text = _SPACE.sub(" ", statement).strip()
    if not text or text.startswith(".pragma"):
        return
    if text.startswith(".reg"):
        body.declare_registers(parse_registers(text, line=line))
    elif text.startswith((".shared", ".local", ".extern .shared")):
        space, variable = parse_variable(text, line=line)
        body.variables[space].append(variable)
    elif text.startswith("."):
        raise UnsupportedPtx(f"unknown directive {text.split()[0]}", line=line, text=text)
    else:
        _parse_instruction(text, body, line=line)


def _parse_instruction(text: str, body: _Body, *, line: int) -> None:
    match = _INSTRUCTION.fullmatch(text)
    if match is None:
        raise UnsupportedPtx("no instruction", line=line, text=text)
    negated, guard_name, mnemonic, operand_text = match.groups()
    guard = body.find_register(guard_name) if guard_name else None
    if guard_name and guard is None:
        raise UnsupportedPtx(f"unknown predicate {guard_name}", line=line, text=text)
    opcode, *modifiers = mnemonic.split(".")
    index = len(body.instructions)
    try:
        operands: tuple[Operand, ...] = tuple(
            parse_operand(part, body.find_register) for part in split_operands(operand_text)
        )
    except ValueError as error:
        raise UnsupportedPtx(str(error), line=line, text=text) from error
    if opcode == "bra":
        body.branches.append((index, tuple(body.scopes)))
    body.instructions.append(
        Instruction(
            index=index,
            line=line,
            text=text,
            guard=guard,
            guard_negated=bool(negated),
            opcode=opcode,
            modifiers=tuple(modifiers),
            operands=operands,
        )
    )
