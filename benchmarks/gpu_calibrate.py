"""How good is the cost model on a GPU that was measured, and what are its efficiencies there?

`python benchmarks/gpu_calibrate.py results/gpu_acceptance.json --gpu a100-40` reads the launches
that gpu_acceptance.py timed, fits the efficiencies, and tells the errors before, after, and on
shapes that a fit did not see. It writes the efficiencies (for `gpu_predictions.py --efficiencies`
and `predict(efficiencies=...)`) and the selection of the fastest kernels beside each other:
FOLDER/GPU.efficiencies.json and FOLDER/GPU.selection.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.json_fields import Fields, parse_json
from vq4dit.json_file import write_json
from vq4dit.plugins.cuda.calibration import fit_efficiencies, held_out_errors, relative_errors
from vq4dit.plugins.cuda.efficiency import ASSUMED
from vq4dit.plugins.cuda.gpu_table import Gpu, find_gpu, gpu_of_device
from vq4dit.plugins.cuda.measurement import measurements_from_rows
from vq4dit.plugins.cuda.selection_file import selection_from_rows, write_selection


def main() -> None:
    """Fit, tell, write."""
    args = _arguments()
    document = parse_json(args.results.read_bytes(), str(args.results))
    rows = Fields(document, str(args.results)).values.get("rows", [])
    rows = [row for row in rows if "kernel" in row]
    gpu = find_gpu(args.gpu) if args.gpu else gpu_of_device(str(document["machine"]["gpu"]))
    name = args.name or f"{document['machine'].get('gpu')}, {args.results.name}"
    for line in calibrate(gpu, rows, name, args.folder):
        print(line)


def calibrate(gpu: Gpu, rows: list[dict[str, Any]], name: str, folder: Path) -> list[str]:
    """Write both files; returns what to print.

    Raises:
        OptionError: too few launches.   ArtifactError: a row is damaged.
    """
    measured = measurements_from_rows(rows)
    fitted = fit_efficiencies(gpu, measured, name)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{gpu.name}.efficiencies.json", fitted.to_dict())
    selection = selection_from_rows(gpu.name, name, rows)
    write_selection(folder / f"{gpu.name}.selection.json", selection)
    return [
        f"{gpu.title}: {len(measured)} launches, {len(selection.entries)} shapes selected",
        f"error, assumed efficiencies: {_summary(relative_errors(gpu, measured, ASSUMED))}",
        f"error, fitted:               {_summary(relative_errors(gpu, measured, fitted))}",
        f"error, shapes not fitted to: {_summary(held_out_errors(gpu, measured))}",
        *(f"  {field}: {value}" for field, value in fitted.to_dict().items()),
    ]


def _summary(errors: NDArray[np.float64]) -> str:
    size = np.abs(errors)
    return (
        f"median {100 * np.median(size):.0f} %, 90 % below {100 * np.percentile(size, 90):.0f} %, "
        f"worst {100 * size.max():.0f} %, mean of signed {100 * errors.mean():+.0f} %"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="file of gpu_acceptance.py")
    parser.add_argument("--gpu", help="name in the table; default: by the driver's name")
    parser.add_argument("--name", help="of the calibration; default: the device and the file")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent / "results", help="for both files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
