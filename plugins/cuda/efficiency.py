"""What share of each peak a kernel reaches: assumed until measurements of a GPU calibrate it.

Calibrated ones come from `calibration.fit_efficiencies` and travel as JSON.

Every prediction carries `Efficiencies.calibration`, the name of what these numbers rest on. The
assumed ones are round figures from published GEMM kernels (CUTLASS and cuBLAS reach 0.75 to 0.9 of
tensor peak on large products, memory copies 0.8 to 0.9 of DRAM's); they are the largest uncertainty
of the model, so `benchmarks/gpu_predictions.py` prints what follows if they are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vq4dit.errors import OptionError
from vq4dit.json_fields import Fields

_MAX_LAUNCH = 20.0

#: Name of the calibration while no GPU was measured.
UNCALIBRATED = "uncalibrated: no GPU measured"


@dataclass(frozen=True, kw_only=True)
class Efficiencies:
    """Shares of peak rates, each in (0, 1], and how far limits add up instead of overlapping.

    Args:
        calibration: what they rest on; told beside every predicted figure.
        library_tensor: of tensor peak in the main loop of a GEMM library (cuBLAS).
        codebook_tensor: the same of our kernels: one look-up more in each chain of dependences.
        one_warp: factor on both where a scheduler has one warp, so that nothing hides its waits.
        dram: of DRAM bandwidth by streaming reads.
        l2: of L2 bandwidth.
        shared, issue: of shared-memory wavefronts and of issue slots.
        serial: share of the time of the second-tightest limit that is not hidden behind the first.
        attention: of tensor peak, by fused attention with heads of 64 to 96 columns.
        launch: times the table's launch time; the only one that may exceed 1.
    """

    calibration: str = UNCALIBRATED
    library_tensor: float = 0.80
    codebook_tensor: float = 0.75
    one_warp: float = 0.85
    dram: float = 0.85
    l2: float = 0.70
    shared: float = 0.90
    issue: float = 0.90
    serial: float = 0.15
    attention: float = 0.40
    launch: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not self.calibration:
            raise OptionError("calibration is empty, needed the name of what was measured")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("calibration", "launch") and not 0 < value <= 1:
                raise OptionError(f"efficiency {field.name} is {value}, needed 0 < share <= 1")
        if not 0 < self.launch <= _MAX_LAUNCH:
            raise OptionError(f"launch is {self.launch}, needed 0 < factor <= {_MAX_LAUNCH}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Efficiencies:
        """From parsed JSON.

        Raises:
            ArtifactError: a key is missing, unknown or of another type.
            OptionError: a share is out of range.
        """
        root = Fields(dict(values), "efficiencies")
        shares = {
            field.name: root.number(field.name, 0.0, _MAX_LAUNCH)
            for field in fields(cls)
            if field.name != "calibration"
        }
        calibration = root.text("calibration")
        root.refuse_unknown()
        return cls(calibration=calibration, **shares)


#: What all predictions use until somebody measures.
ASSUMED = Efficiencies()
