"""The op: how a vector-quantized weight is laid out, its reference, and its backends.

Knows nothing of models, files or sampling; needs only NumPy.
"""

from .layer import QuantizedLayer as QuantizedLayer
from .layout import CONFIGURATIONS as CONFIGURATIONS
from .layout import GroupOrder as GroupOrder
from .layout import Layout as Layout
from .layout import default_group_order as default_group_order
from .native import available_isas as available_isas
from .native import ort_library_path as ort_library_path
