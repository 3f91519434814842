"""Compilation: cache, PTX versions, architectures, errors. Kernels run in the other files."""

import re
import subprocess

import pytest
from support_cuda import configuration_of, packaged_tool, require_compiler

from vq4dit.errors import BackendUnavailable, OptionError
from vq4dit.plugins.cuda import compile as compile_module
from vq4dit.plugins.cuda import nvrtc
from vq4dit.plugins.cuda.compile import (
    PTX_VERSIONS,
    SMS,
    compile_cubin,
    compile_ptx,
    default_cache_folder,
    set_ptx_version,
    sources,
)
from vq4dit.plugins.cuda.configuration import DECODE_TILES, GEMM_TILES, GEMV_TILES
from vq4dit.plugins.cuda.nvcc import Nvcc
from vq4dit.plugins.cuda.nvrtc import CompileError

require_compiler()

SMALL = configuration_of("decode", DECODE_TILES[0])


def test_ptx_names_its_kernel_architecture_and_version(tmp_path):
    ptx = compile_ptx(SMALL, 87, cache_folder=tmp_path)
    assert f".entry {SMALL.name}(" in ptx
    assert re.search(r"^\.target sm_87$", ptx, flags=re.M)
    assert re.search(r"^\.version 8\.0$", ptx, flags=re.M)
    assert "\0" not in ptx


def test_the_second_time_comes_from_the_cache(tmp_path, monkeypatch):
    first = compile_ptx(SMALL, 80, cache_folder=tmp_path)
    (file,) = (tmp_path / "cuda").iterdir()
    assert file.name.startswith(f"{SMALL.name}_sm80_") and file.suffix == ".ptx"
    file.write_text(first + "// from the cache\n")
    assert compile_ptx(SMALL, 80, cache_folder=tmp_path).endswith("// from the cache\n")
    changed = sources() | {"device.cuh": sources()["device.cuh"] + "// another source\n"}
    monkeypatch.setattr(compile_module, "sources", lambda: changed)
    assert compile_ptx(SMALL, 80, cache_folder=tmp_path) == first
    assert len(list((tmp_path / "cuda").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert compile_ptx(SMALL, 80, cache_folder=tmp_path / "file").startswith("//")


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("VQ4DIT_CACHE", str(tmp_path))
    assert default_cache_folder() == tmp_path
    monkeypatch.delenv("VQ4DIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "vq4dit"


def test_unknown_architectures_are_named():
    with pytest.raises(OptionError, match="sm is 75, needed one of 80, 86, 87, 89, 90, 100"):
        compile_ptx(SMALL, 75)


def test_the_compilers_messages_are_passed_on(tmp_path, monkeypatch):
    broken = sources() | {"decode.cu": "this is not C++"}
    monkeypatch.setattr(compile_module, "sources", lambda: broken)
    with pytest.raises(CompileError, match="decode.cu for compute_80: .*error"):
        compile_ptx(SMALL, 80, cache_folder=tmp_path)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(nvrtc, "_packaged_library", lambda: None)
    monkeypatch.setattr(nvrtc.ctypes.util, "find_library", lambda name: None)
    nvrtc.load_nvrtc.cache_clear()
    try:
        with pytest.raises(BackendUnavailable, match=r"pip install 'vq4dit\[cuda\]'"):
            nvrtc.load_nvrtc()
    finally:
        nvrtc.load_nvrtc.cache_clear()
    with pytest.raises(BackendUnavailable, match="cannot load the CUDA compiler"):
        nvrtc.Nvrtc("/nowhere/libnvrtc.so")
    with pytest.raises(BackendUnavailable, match="cannot run nvcc at /nowhere/nvcc"):
        Nvcc("/nowhere/nvcc")


def test_text_without_a_version_is_refused():
    with pytest.raises(CompileError, match="no .version line"):
        set_ptx_version(".target sm_80\n", "8.0")


@pytest.mark.parametrize("sm", [80, 87, 120])
def test_machine_code(sm, tmp_path):
    cubin = compile_cubin(SMALL, sm, cache_folder=tmp_path)
    assert cubin.startswith(b"\x7fELF") and SMALL.name.encode() in cubin
    assert compile_cubin(SMALL, sm, cache_folder=tmp_path) == cubin


def test_versions_are_what_old_drivers_know():
    # CUDA 12.6 (JetPack 6) knows PTX up to 8.5 and none of the later architectures.
    assert all(float(PTX_VERSIONS[sm]) <= 8.5 for sm in SMS if sm <= 90)


@pytest.mark.toolchain
@pytest.mark.parametrize("sm", SMS)
def test_the_assembler_takes_the_version_without_spills(sm, tmp_path):
    ptxas = packaged_tool("ptxas")
    for configuration in (
        configuration_of("gemm", GEMM_TILES[0], epilogue="gelu_tanh", dtype="bfloat16"),
        configuration_of("gemm", GEMM_TILES[4], epilogue="gate_residual"),
        configuration_of("gemv", GEMV_TILES[0], epilogue="silu"),
        SMALL,
    ):
        (tmp_path / "kernel.ptx").write_text(compile_ptx(configuration, sm))
        done = subprocess.run(
            [ptxas, f"-arch=sm_{sm}", "-v", "kernel.ptx", "-o", "kernel.cubin"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr


@pytest.mark.toolchain
def test_nvcc_compiles_the_same_sources(tmp_path):
    nvcc = packaged_tool("nvcc")
    ptx = compile_ptx(SMALL, 80, nvcc=nvcc, cache_folder=tmp_path)
    assert f".entry {SMALL.name}(" in ptx
    assert re.search(r"^\.version 8\.0$", ptx, flags=re.M)
    assert compile_cubin(SMALL, 80, nvcc=nvcc, cache_folder=tmp_path).startswith(b"\x7fELF")
