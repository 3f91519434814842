"""Resident memory of this process as the kernel counts it (Linux)."""

from __future__ import annotations

from pathlib import Path


def memory_bytes() -> dict[str, int]:
    """Resident bytes now, and the most so far: "rss_bytes" and "peak_rss_bytes".

    Not `resource.getrusage`: its peak starts with that of the process that this one was forked
    from.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {x.split(":")[0]: int(x.split()[1]) for x in lines if x.startswith(("VmRSS", "VmHWM"))}
    return {"rss_bytes": kib["VmRSS"] * 1024, "peak_rss_bytes": kib["VmHWM"] * 1024}


def reset_peak() -> None:
    """Let the peak start again from what is resident now (needs Linux 4.0)."""
    Path("/proc/self/clear_refs").write_text("5")
