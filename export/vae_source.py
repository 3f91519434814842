"""Read the decoder of an AutoencoderKL or AutoencoderTiny: a diffusers folder or a single file.

Tensors are asked for under diffusers' names and found under older or other names too. Everything is
checked before use. Does not know ONNX.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vq4dit.errors import ArtifactError

from .vae_config import VaeConfig, kl_config_from_shapes, read_config, tiny_config_from_shapes
from .vae_names import stored_names

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


class VaeSource:
    """A VAE's configuration and its decoder's tensors, one by one; a context manager.

    Args:
        path: a diffusers folder (config.json and diffusion_pytorch_model.safetensors), or one
            safetensors file: in diffusers' layout, in the latent-diffusion layout of the original
            Stable Diffusion VAEs (alone or inside a whole checkpoint, below `first_stage_model.`),
            or a TAESD decoder with numbered layers. A file's sizes follow from its tensors.
    Raises:
        ArtifactError: a file is missing or damaged, or the VAE is of a kind that is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        folder = path if path.is_dir() else path.parent
        # A folder's weights may be given as well.
        has_config = path.is_dir() or (
            path.name == WEIGHTS_NAME and (folder / CONFIG_NAME).exists()
        )
        config = read_config(folder / CONFIG_NAME) if has_config else None
        self._weights_path = folder / WEIGHTS_NAME if path.is_dir() else path
        if not self._weights_path.is_file():
            raise ArtifactError(f"{self._weights_path}: no such file; needed the VAE's weights")
        try:
            self._file = cast(Any, safe_open(self._weights_path, framework="numpy"))
            self._stored = stored_names(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{self._weights_path}: not a safetensors file: {error}") from None
        self.config: VaeConfig = config or self._config_from_tensors()

    def __enter__(self) -> VaeSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A tensor of the state dict as float32, by diffusers' name.

        The attention's linears may be stored as 1x1 convolutions.

        Raises:
            ArtifactError: missing, misshaped, not float16 or float32, or not finite.
        """
        stored = self._stored.get(name)
        if stored is None:
            raise ArtifactError(f"{self._weights_path}: tensor {name} is missing")
        try:
            array: NDArray[Any] = self._file.get_tensor(stored)
        except (SafetensorError, TypeError, ValueError) as error:
            raise ArtifactError(f"{self._weights_path}: tensor {stored}: {error}") from None
        if array.dtype not in (np.float16, np.float32):
            raise ArtifactError(
                f"{self._weights_path}: tensor {stored} has dtype {array.dtype}, "
                "needed float16 or float32"
            )
        found = array.shape[:2] if array.shape[2:] == (1, 1) and len(shape) == 2 else array.shape
        if found != shape:
            raise ArtifactError(
                f"{self._weights_path}: tensor {stored} has shape {array.shape}, needed {shape}"
            )
        if not np.isfinite(array).all():
            raise ArtifactError(f"{self._weights_path}: tensor {stored} has a value not finite")
        return array.reshape(shape).astype(np.float32)

    def _config_from_tensors(self) -> VaeConfig:
        """The configuration of a file that has none."""
        shapes = {
            name: tuple(self._file.get_slice(stored).get_shape())
            for name, stored in self._stored.items()
        }
        if any(name.startswith("decoder.layers.") for name in shapes):
            return tiny_config_from_shapes(self._weights_path, shapes)
        return kl_config_from_shapes(self._weights_path, shapes)
