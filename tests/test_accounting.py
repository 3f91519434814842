"""Sizes of quantized models: the paper's numbers, and agreement with bytes that exist."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from support_export import TINY, decoded, random_source

from vq4dit.accounting import MIB, config_from_preset, size_from_shapes, size_from_weights
from vq4dit.errors import OptionError
from vq4dit.model_config import PRESETS

XL = PRESETS["DiT-XL/2"]


@pytest.mark.parametrize(("bits", "mib"), [(2, 162.080), (3, 241.145)])
def test_paper_accounting_of_dit_xl_is_the_published_number(bits, mib):
    assert size_from_shapes(XL, bits).paper_accounting_mib == pytest.approx(mib, abs=5e-4)


def test_paper_accounting_without_split_qkv_is_smaller():
    size = size_from_shapes(XL, 2, row_groups={"attn.qkv": 1})
    assert size.paper_accounting_mib == pytest.approx(161.86, abs=5e-3)


@pytest.mark.parametrize(("bits", "mib"), [(2, 171.81), (3, 251.21)])
def test_whole_dit_xl_in_float16(bits, mib):
    assert size_from_shapes(XL, bits).total_bytes / MIB == pytest.approx(mib, abs=5e-3)


def test_bits_per_weight_are_assignments_and_codebooks():
    size = size_from_shapes(XL, 2)
    assert size.assignment_bits_per_weight == 2
    assert size.codebook_bits_per_weight == pytest.approx(196 * 256 * 4 * 16 / 668_860_416)
    assert size.bits_per_weight == pytest.approx(2 + size.codebook_bits_per_weight)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_accounted_for(name, bits):
    size = size_from_shapes(PRESETS[name], bits)
    assert len(size.layers) == 5 * PRESETS[name].depth
    assert size.unquantized == ()
    assert {layer.bits for layer in size.layers} == {bits}
    assert {layer.row_groups for layer in size.layers if layer.name.endswith("qkv")} == {3}


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_accounting_from_shapes_equals_accounting_from_weights(bits):
    source = random_source(TINY, bits=bits, row_groups=3)
    stored = {name: 2 * int(np.prod(shape)) for name, shape in TINY.tensor_shapes().items()}
    by_weights = size_from_weights(source, stored)
    without_hashes = [replace(layer, sha256=None) for layer in by_weights.layers]
    by_shapes = size_from_shapes(TINY, bits)
    assert without_hashes == list(by_shapes.layers)
    assert by_weights.total_bytes == by_shapes.total_bytes


def test_bytes_of_a_layer_are_those_of_its_arrays():
    source = random_source(TINY, bits=3)
    layer = source.layers["blocks.1.mlp.fc1"]
    size = next(s for s in size_from_weights(source).layers if s.name == "blocks.1.mlp.fc1")
    assert size.bytes == layer.codebook.nbytes + layer.assignments.nbytes
    assert size.bits_per_weight == layer.bits_per_weight
    content = layer.codebook.tobytes() + layer.assignments.tobytes()
    assert size.sha256 == hashlib.sha256(content).hexdigest()


def test_layers_that_are_not_quantized_are_listed_and_counted_in_full():
    source = random_source(TINY, dense=("mlp.fc2",))
    size = size_from_weights(source)
    assert size.unquantized == ("blocks.0.mlp.fc2", "blocks.1.mlp.fc2")
    dense = next(layer for layer in size.layers if not layer.is_quantized)
    assert (dense.bits, dense.bytes, dense.codebook_size) == (32, 4 * 64 * 256, None)
    assert dense.paper_bytes == 4 * (64 * 256 + 64)


def test_dense_model_by_the_papers_accounting_is_float32_blocks():
    size = size_from_weights(decoded(random_source(TINY)))
    weights = sum(rows * columns + rows for rows, columns in TINY.block_linear_shapes().values())
    assert size.paper_accounting_mib == pytest.approx(4 * weights / MIB)
    assert len(size.unquantized) == len(size.layers)


def test_picture_size_changes_the_position_table_alone():
    small, large = (size_from_shapes(config_from_preset("DiT-XL/2", n), 2) for n in (256, 512))
    assert large.total_bytes - small.total_bytes == (1024 - 256) * 1152 * 2
    assert large.paper_accounting_mib == small.paper_accounting_mib


def test_refusals_name_what_is_known():
    with pytest.raises(OptionError, match="DiT-XL/2"):
        config_from_preset("DiT-XXL/2")
    with pytest.raises(OptionError, match="multiple of 16"):
        config_from_preset("DiT-XL/2", 250)
    with pytest.raises(OptionError, match="needed one of"):
        size_from_shapes(XL, 5)
    with pytest.raises(OptionError, match="row groups"):
        size_from_shapes(XL, 2, row_groups={"attn.proj": 7})
    with pytest.raises(OptionError, match="cannot be quantized to 1 bits"):
        size_from_shapes(replace(XL, hidden_size=1148, num_heads=14), 1)
