"""A program that calibrates again and again, each time in a process that can be killed or starved.

`python support_interrupted.py CHECKPOINT OUTPUT WHOLE RECIPE` calibrates into WHOLE first, without
interruption. Then, for each line on stdin, a limit of bytes per file or 0, it forks a process that
calibrates into OUTPUT with --resume under that limit. On stdout: "ready" after the first; then the
process's id, "STAGE DONE" after each piece of work, at last "end CODE", an error before it.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
from dataclasses import replace

import torch

from vq4dit.calibrate import stages
from vq4dit.calibrate.recipe import RECIPES
from vq4dit.calibrate.run import calibrate
from vq4dit.errors import Vq4ditError

#: Recipes cut to size; states of the whole model's training are saved every 4 steps.
CUT = {
    "kmeans_iterations": 2,
    "batch_size": 16,
    "num_trajectories": 4,
    "trajectory_steps": 6,
    "pool_tokens": 256,
}
QUICK = {
    "vq4dit": replace(
        RECIPES["vq4dit"], **CUT, soft_steps=8, distill_steps=20, distill_batch_size=16
    ),
    "reference": replace(RECIPES["reference"], **CUT, soft_steps=20, ratio_lr=0.5),
    "kmeans": replace(RECIPES["kmeans"], kmeans_iterations=2),
}
#: 64 codewords, which are found faster than 256.
BITS = 3
SAVE_EVERY = 4


def main() -> None:
    """Calibrate once per line."""
    checkpoint, output, whole, name = sys.argv[1:]
    torch.set_num_threads(1)
    stages._SAVE_EVERY = SAVE_EVERY
    calibrate(checkpoint, whole, bits=BITS, recipe=QUICK[name])
    tell("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(run(checkpoint, output, name, int(line)))
        tell(f"{child}")
        _, status = os.waitpid(child, 0)
        tell(f"end {os.waitstatus_to_exitcode(status)}")


def run(checkpoint: str, output: str, name: str, limit: int) -> int:
    """In the child: calibrate; 1 for an error that a user can mend, 2 for any other."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        calibrate(
            checkpoint,
            output,
            bits=BITS,
            recipe=QUICK[name],
            resume=True,
            progress=lambda stage, done, total, **values: tell(f"{stage} {done}"),
        )
    except Vq4ditError as error:
        tell(f"error {error}")
        return 1
    except BaseException:
        traceback.print_exc()
        return 2
    return 0


def tell(line: str) -> None:
    """Write a line at once."""
    os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main()
