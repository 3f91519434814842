"""How long one sampling step takes, and what it holds in memory, on a machine that is not here.

    predict(source, gpu, batch, *, weights=("fp16", "2bit"), efficiencies=ASSUMED)
        -> PredictedProfile

`source` is an engine directory, a ModelConfig or a model's name ("DiT-XL/2"); `gpu` a name of
`vq4dit.plugins.cuda.gpu_table.GPUS` ("a100-40", "orin-agx", ...). `PredictedProfile.to_dict()` is
for JSON, `profile_table(profile)` gives the lines for a terminal. Every figure is labelled
"predicted" and names the calibration it rests on.
"""

from .gpu import predict
from .profile import PredictedLayer, PredictedProfile
from .table import profile_table

__all__ = ["PredictedLayer", "PredictedProfile", "predict", "profile_table"]
