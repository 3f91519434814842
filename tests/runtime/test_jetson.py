"""What a Jetson board tells, from files as on a real one."""

from pathlib import Path

import pytest

from vq4dit.runtime.jetson import find_jetson

ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "var/lib/nvpmodel/status": "pmode:0001 fmode:fanNull\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=MAXN_SUPER >\n",
}


def board(root: Path, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return find_jetson(root)


def test_model_release_and_power_mode(tmp_path):
    jetson = board(tmp_path, ORIN)
    assert vars(jetson) == {
        "model": "NVIDIA Jetson Orin Nano Developer Kit",
        "release": "36.4.3",
        "power_mode": "MAXN_SUPER (1)",
    }


@pytest.mark.parametrize("lacking", ["etc/nv_tegra_release", "var/lib/nvpmodel/status"])
def test_what_is_not_told_is_empty(tmp_path, lacking):
    jetson = board(tmp_path, {k: v for k, v in ORIN.items() if k != lacking})
    assert jetson.model.startswith("NVIDIA Jetson")
    assert "" in (jetson.release, jetson.power_mode)


@pytest.mark.parametrize("files", [{}, {"proc/device-tree/model": "Raspberry Pi 5\0"}])
def test_other_machines_are_none(tmp_path, files):
    assert board(tmp_path, files) is None
