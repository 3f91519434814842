"""The op: how a vector-quantized weight is laid out, its reference, and its backends.

Knows nothing of models, files or sampling; needs only NumPy.
"""

from .layer import QuantizedLayer as QuantizedLayer
from .layout import CONFIGURATIONS as CONFIGURATIONS
from .layout import GroupOrder as GroupOrder
from .layout import Layout as Layout
from .layout import default_group_order as default_group_order
