"""What can go wrong: a kernel does something undefined, or PTX is unknown to the emulator."""

from __future__ import annotations

from enum import Enum


class FailureKind(Enum):
    """The check that a kernel failed."""

    RACE = "race"
    ASYNC_NOT_WAITED = "asynchronous copy not waited for"
    OUT_OF_BOUNDS = "out of bounds"
    MISALIGNED = "misaligned"
    UNINITIALISED_SHARED = "uninitialised shared memory"
    UNINITIALISED_REGISTER = "uninitialised register"
    READ_ONLY = "read-only memory written"
    DIVERGENT_BARRIER = "divergent barrier"
    DIVERGENT_WARP = "warp-wide instruction in a diverged warp"
    TRAP = "trap"
    ENDLESS = "endless loop"
    REGISTER_IN_FLIGHT = "register of a wgmma that was not waited for"
    REGISTER_NOT_FENCED = "register of a wgmma without wgmma.fence"
    PROXY_NOT_FENCED = "shared memory without fence.proxy.async"


class KernelFailure(Exception):
    """A kernel did something that the PTX ISA leaves undefined or forbids.

    Attributes:
        kind: the check that failed.
        line: line in the PTX text, from 1.
        text: the instruction.
        block, thread: (x, y, z) of the first thread concerned.
        detail: what was found.
    """

    def __init__(
        self,
        kind: FailureKind,
        *,
        detail: str,
        line: int,
        text: str,
        block: tuple[int, int, int],
        thread: tuple[int, int, int],
    ) -> None:
        self.kind = kind
        self.detail = detail
        self.line = line
        self.text = text
        self.block = block
        self.thread = thread
        super().__init__(
            f"{kind.value}: {detail}; line {line}: {text!r}, block {block}, thread {thread}"
        )


class UnsupportedPtx(Exception):
    """The text is not PTX as this emulator knows it; the message names the line."""

    def __init__(self, problem: str, *, line: int, text: str) -> None:
        self.line = line
        self.text = text
        super().__init__(f"{problem}; line {line}: {text!r}")


class LaunchError(ValueError):
    """A launch that no driver would accept: arguments, block size or shared memory do not fit."""
