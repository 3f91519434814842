"""docs/profiling.md names every key that a profile has, and every GPU."""

from pathlib import Path

from profile_document import document

from vq4dit.plugins.cuda.gpu_table import GPUS
from vq4dit.prediction import predict

TEXT = (Path(__file__).parents[3] / "docs" / "profiling.md").read_text(encoding="utf-8")

#: Objects whose keys are names of things, not of figures.
NAMED = {"versions", "rails", "parts_ms", "kinds_ms", "step_ms", "memory_bytes", "clocks_mhz"}

#: Keys of a prediction's layers are those of the prediction's own documentation.
NOT_HERE = {"layers"}


def keys_of(values, left_out=frozenset()):
    """All keys of nested objects, but those inside of NAMED."""
    found = set()
    if isinstance(values, dict):
        for key, value in values.items():
            found.add(key)
            if key not in NAMED | left_out:
                found |= keys_of(value, left_out)
    elif isinstance(values, list):
        for value in values:
            found |= keys_of(value, left_out)
    return found


def test_every_key_of_a_profile_is_documented():
    missing = {key for key in keys_of(document("a", "b")) if f"`{key}`" not in TEXT}
    assert missing == set()


def test_every_key_of_a_prediction_is_documented():
    values = predict("DiT-S/2", "l4", 1).to_dict()
    assert {key for key in keys_of(values, NOT_HERE) if f"`{key}`" not in TEXT} == set()


def test_every_gpu_is_documented():
    names = [gpu if isinstance(gpu, str) else gpu.name for gpu in GPUS]
    assert len(names) >= 9
    assert [name for name in names if f"`{name}`" not in TEXT] == []
