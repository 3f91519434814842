"""plugins/native.py: where the library is looked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vq4dit import plugins
from vq4dit.errors import BackendUnavailable
from vq4dit.plugins import available_isas, ort_library_path


def test_variable_names_the_library(tmp_path, monkeypatch):
    library = tmp_path / "other.so"
    library.touch()
    monkeypatch.setenv("VQ4DIT_ORT_LIBRARY", str(library))
    assert ort_library_path() == library.resolve()


def test_variable_that_names_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("VQ4DIT_ORT_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(BackendUnavailable, match="VQ4DIT_ORT_LIBRARY"):
        ort_library_path()


def test_every_package_folder_is_searched(tmp_path, monkeypatch):
    monkeypatch.delenv("VQ4DIT_ORT_LIBRARY", raising=False)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.setattr(plugins, "__path__", [str(first), str(second)])
    assert ort_library_path() is None
    assert available_isas() == ()
    (second / "libvq4dit_ort.so").touch()
    assert ort_library_path() == second / "libvq4dit_ort.so"


def test_looking_for_the_library_imports_no_onnxruntime():
    code = (
        "import sys; from vq4dit.plugins import ort_library_path; ort_library_path(); "
        "sys.exit('onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
