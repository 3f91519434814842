"""What a callback is told after every sampling step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .session import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class StepReport:
    """The state of one batch after one step.

    Args:
        done: steps taken so far in this call, over all its batches: 1..total.
        total: steps of the whole call.
        step: 0..steps-1, the step that was just taken.
        t: its timestep in the training schedule.
        samples: (n,) sample indices of the batch.
        latents: (n, C, H, W) float32 after the step; at the last step the final ones.
        x_start: (n, C, H, W) float32, the step's estimate of the final latents.
        decode: the pipeline's `decode`.
    """

    done: int
    total: int
    step: int
    t: int
    samples: NDArray[np.int64]
    latents: Floats
    x_start: Floats
    decode: Callable[[Floats], NDArray[np.uint8]] = field(repr=False)

    def preview(self) -> NDArray[np.uint8]:
        """Decode the estimate: (n, H, W, C) uint8. Costs one run of the decoder.

        With low_memory it also costs loading both models again.

        Raises:
            OptionError: the engine has no decoder.
            Vq4ditError: the decoder gave NaN or infinite values.
        """
        return self.decode(self.x_start)


#: Called after every step of every batch; what it raises ends the call.
Callback = Callable[[StepReport], None]
