"""vq4dit: vector-quantized Diffusion Transformers, from checkpoint to engine to pictures.

Names are loaded on first use, so that `import vq4dit` costs nothing and needs no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ArtifactError as ArtifactError
    from .errors import BackendUnavailable as BackendUnavailable
    from .errors import Cancelled as Cancelled
    from .errors import OptionError as OptionError
    from .errors import ShapeError as ShapeError
    from .errors import Vq4ditError as Vq4ditError
    from .runtime.images import pil_from_images as pil_from_images
    from .runtime.images import save_grid as save_grid
    from .runtime.images import save_images as save_images
    from .runtime.images import save_png as save_png
    from .runtime.pipeline import Pipeline as Pipeline
    from .runtime.step_report import StepReport as StepReport

__version__ = "0.1.0"

#: Public name -> module that has it.
_LAZY = {
    "ArtifactError": "vq4dit.errors",
    "BackendUnavailable": "vq4dit.errors",
    "Cancelled": "vq4dit.errors",
    "OptionError": "vq4dit.errors",
    "Pipeline": "vq4dit.runtime.pipeline",
    "ShapeError": "vq4dit.errors",
    "StepReport": "vq4dit.runtime.step_report",
    "Vq4ditError": "vq4dit.errors",
    "pil_from_images": "vq4dit.runtime.images",
    "save_grid": "vq4dit.runtime.images",
    "save_images": "vq4dit.runtime.images",
    "save_png": "vq4dit.runtime.images",
}

__all__ = [
    "ArtifactError",
    "BackendUnavailable",
    "Cancelled",
    "OptionError",
    "Pipeline",
    "ShapeError",
    "StepReport",
    "Vq4ditError",
    "__version__",
    "pil_from_images",
    "save_grid",
    "save_images",
    "save_png",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'vq4dit' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
