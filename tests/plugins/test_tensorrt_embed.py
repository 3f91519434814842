"""The kernel table of the C++ library, and the part that chooses an image: no headers needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vq4dit.errors import OptionError
from vq4dit.plugins.cuda.configuration import GroupOrder, supported_tiles
from vq4dit.plugins.tensorrt import embed
from vq4dit.plugins.tensorrt.kernel_choice import common_kernels, tactic_number

#: Epilogues times tiles of gemm and gemv, and decode: for one layout and dtype.
PER_LAYOUT = 4 * (len(supported_tiles("gemm")) + len(supported_tiles("gemv"))) + 1


@pytest.fixture
def compiled(monkeypatch):
    """Compilers that write down what they were asked for."""
    asked = []

    def cubin(kernel, sm):
        asked.append((kernel.name, sm, "cubin"))
        return b"\x7fELF" + kernel.name.encode()

    def ptx(kernel, sm):
        asked.append((kernel.name, sm, "ptx"))
        return f".entry {kernel.name}"

    monkeypatch.setattr(embed, "compile_cubin", cubin)
    monkeypatch.setattr(embed, "compile_ptx", ptx)
    return asked


def test_table_and_images(tmp_path, compiled):
    count = embed.embed_kernels(tmp_path, sms=[87, 80], bits=[2, 3], dtypes=["float16"])
    assert count == 2 * PER_LAYOUT
    table = (tmp_path / embed.TABLE_NAME).read_text()
    rows = re.findall(r'^    \{"(\w+)", (\d+), OpKind::(\w+),', table, re.M)
    nodes = common_kernels(embed._layouts([2, 3], all_orders=False), ("float16",))
    assert [(name, int(tactic)) for name, tactic, _ in rows] == [
        (kernel.name, tactic_number(kernel)) for _, _, kernel in nodes
    ]
    assert {op for _, _, op in rows} == {"kGemm", "kGemmResidual", "kDecode"}
    assembly = (tmp_path / embed.IMAGES_NAME).read_text()
    for name, sm, kind in compiled:
        symbol = f"vq4dit_{name}_{'ptx' if kind == 'ptx' else 'sm'}{sm}"
        content = (tmp_path / f"{symbol}.bin").read_bytes()
        assert f'{symbol}:\n    .incbin "{symbol}.bin"' in assembly
        assert f"{{{sm}, {str(kind == 'ptx').lower()}, {symbol}, {len(content)}}}" in table
        assert content.endswith(b"\0") == (kind == "ptx")


def test_machine_code_for_each_gpu_and_ptx_of_the_oldest(tmp_path, compiled):
    embed.embed_kernels(tmp_path, sms=[80, 90, 87], bits=[2], dtypes=["float16"])
    first = compiled[0][0]
    kinds = [(sm, kind) for name, sm, kind in compiled if name == first]
    assert kinds == [(80, "cubin"), (87, "cubin"), (90, "cubin"), (80, "ptx")]


def test_kernels_for_hopper_are_in_a_library_for_hopper_alone(tmp_path, compiled):
    """A tactic must run on every GPU of the library, and such code on one alone."""
    counts = {}
    for sms in ([90], [87], [80, 90]):
        folder = tmp_path / str(len(counts))
        counts[tuple(sms)] = embed.embed_kernels(folder, sms=sms, bits=[2], dtypes=["float16"])
    more = 4 * len(supported_tiles("wgmma"))
    assert counts == {(90,): PER_LAYOUT + more, (87,): PER_LAYOUT, (80, 90): PER_LAYOUT}
    asked = {(sm, kind) for name, sm, kind in compiled if "wgmma" in name}
    assert asked == {(90, "cubin")}


def test_one_gpu_needs_no_ptx(tmp_path, compiled):
    embed.embed_kernels(tmp_path, sms=[87], bits=[2], dtypes=["bfloat16"])
    assert {kind for _, _, kind in compiled} == {"cubin"}
    assert all("_bf16_" in name for name, _, _ in compiled)


def test_the_identification_changes_with_the_table(tmp_path, compiled):
    identifications = set()
    for number, dtypes in enumerate((["float16"], ["bfloat16"])):
        folder = tmp_path / str(number)
        embed.embed_kernels(folder, sms=[87], bits=[2], dtypes=dtypes)
        table = (folder / embed.TABLE_NAME).read_text()
        identifications.add(re.search(r'kKernelsId = "(\w{32})"', table).group(1))
    assert len(identifications) == 2


def test_unchanged_files_are_not_written_again(tmp_path, compiled):
    """Or CMake would compile them again."""
    asked = {"sms": [87], "bits": [2], "dtypes": ["float16"]}
    embed.embed_kernels(tmp_path, **asked)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    embed.embed_kernels(tmp_path, **asked)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_foreign_artifacts_need_the_contiguous_order():
    default = embed._layouts([1, 2, 3, 4], all_orders=False)
    every = embed._layouts([1, 2, 3, 4], all_orders=True)
    assert [int(layout.group_order) for layout in default] == [2, 1, 0, 0]
    assert len(every) == 6
    assert sum(layout.group_order == GroupOrder.CONTIGUOUS for layout in every) == 4


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"sms": [75]}, "sm is 75, needed some of 80, 86"),
        ({"sms": []}, "sm is missing"),
        ({"bits": [5]}, "bits is 5, needed some of 1, 2, 3, 4"),
        ({"dtypes": ["float32"]}, "dtype is float32, needed some of float16, bfloat16"),
    ],
)
def test_unknown_values(tmp_path, changed, message):
    asked = {"sms": [87], "bits": [2], "dtypes": ["float16"]} | changed
    with pytest.raises(OptionError, match=message):
        embed.embed_kernels(tmp_path / "kernels", **asked)
    assert not (tmp_path / "kernels").exists()


IMAGES = "80c 86c 90p 87c 120c 120p 80p"  # compute capability, cubin or PTX
CHOSEN = {75: "none", 80: "80c", 86: "86c", 87: "87c", 89: "86c", 90: "90p", 100: "90p",
          110: "90p", 120: "120c", 121: "120c", 130: "120p"}  # fmt: skip
CHOOSER = """
#include "driver.h"
#include <cstdio>
#include <cstdlib>
int main(int count, char** arguments) {
  static const vq4dit::Image kImages[] = {%s};
  for (int i = 1; i < count; ++i) {
    const vq4dit::Image* image = vq4dit::choose_image(kImages, %d, std::atoi(arguments[i]));
    if (image) std::printf("%%d%%c\\n", image->compute_capability, image->is_ptx ? 'p' : 'c');
    else std::printf("none\\n");
  }
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_image_that_a_gpu_runs(tmp_path):
    """Machine code runs from its minor version on, Jetson's nowhere else; PTX on all newer."""
    names = IMAGES.split()
    images = ", ".join(f"{{{n[:-1]}, {str(n[-1] == 'p').lower()}, nullptr, 0}}" for n in names)
    source = tmp_path / "choose.cc"
    source.write_text(CHOOSER % (images, len(names)))
    cpp: Path = embed.CPP_FOLDER
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{cpp}", str(source)]
    command += [str(cpp / "driver.cc"), "-ldl", "-o", str(tmp_path / "choose")]
    subprocess.run(command, check=True)
    asked = [str(sm) for sm in CHOSEN]
    told = subprocess.run([tmp_path / "choose", *asked], capture_output=True, text=True, check=True)
    assert dict(zip(CHOSEN, told.stdout.split(), strict=True)) == CHOSEN
