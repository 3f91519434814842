"""vq4dit: vector-quantized Diffusion Transformers, from checkpoint to engine to pictures.

Names are loaded on first use, so that `import vq4dit` costs nothing and needs no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime.pipeline import Pipeline as Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "__version__"]

_LAZY = {"Pipeline": "vq4dit.runtime.pipeline"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'vq4dit' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
