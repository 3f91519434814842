"""Which quantized linears of a TensorRT engine are decoded before a product: asked for, or chosen.

Only target tensorrt has both ways: our kernels gather, TensorRT's own multiply by a decoded weight.
"""

from __future__ import annotations

import logging

from vq4dit.errors import OptionError
from vq4dit.export.linear_ways import DECODE, GATHER, ChooseWay, LinearUse, always
from vq4dit.plugins.cuda.codebook_format import CodebookFormat
from vq4dit.plugins.cuda.efficiency import ASSUMED
from vq4dit.plugins.cuda.gpu_table import Gpu, gpu_of_device
from vq4dit.plugins.cuda.linear_choice import QuantizedLinear, choose_linear

_log = logging.getLogger(__name__)

#: By the cost model of the GPU that the engine is built on.
AUTO = "auto"
LINEARS = (AUTO, GATHER, DECODE)


def choose_way(linears: str, *, device: str, batch: int) -> ChooseWay:
    """The function that export asks about each linear.

    Args:
        linears: one of LINEARS.
        device: the driver's name of the GPU. One that the cost model does not know gathers.
        batch: samples of a step that the engine is tuned for.
    """
    if linears != AUTO:
        return always(linears)
    try:
        gpu = gpu_of_device(device)
    except OptionError:
        _log.info(
            "%s is not in the cost model's table: quantized linears are gathered; measure "
            "--linears decode beside it",
            device,
        )
        return always(GATHER)
    _log.info("linears as predicted for %s at batch %d (%s)", gpu.name, batch, ASSUMED.calibration)
    return lambda use: predicted_way(gpu, use, batch)


def predicted_way(gpu: Gpu, use: LinearUse, batch: int) -> str:
    """The way that is predicted to be faster for `batch` samples in a step."""
    layout = use.layout
    weight = CodebookFormat(
        codebook_size=layout.codebook_size,
        sub_vector_len=layout.sub_vector_len,
        index_bits=layout.index_bits,
        row_groups=use.row_groups,
    )
    linear = QuantizedLinear(
        m=use.rows_per_sample * batch,
        n=use.out_features // use.count,
        k=layout.in_features,
        weight=weight,
        is_residual=use.is_residual,
        count=use.count,
    )
    return DECODE if choose_linear(gpu, linear).is_decoded else GATHER
