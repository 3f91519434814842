"""Losses of calibration: distance of features (L_d) and openness of ratios (L_r)."""

from __future__ import annotations

from torch import Tensor

from vq4dit.errors import OptionError

RATIO_LOSSES = ("paper", "reference")


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error over the teacher's square, a scalar: 0 is equal, 1 is all wrong."""
    return (student - teacher).square().mean() / teacher.square().mean().clamp(min=1e-12)


def ratio_loss(ratios: Tensor, frozen: Tensor, form: str) -> Tensor:
    """How far ratios are from being decided, a scalar; 0 when all are one-hot.

    Args:
        ratios: (sub-vectors, n), each row sums to 1.
        frozen: (sub-vectors,) bool; form "reference" leaves these out.
        form: "paper", mean over sub-vectors of sum_n (1 - |2 r - 1|): VQ4DiT eq. 9.
            "reference", 2 * mean of r (1 - r) over what is open: the authors' code.
    Raises:
        OptionError: an unknown form.
    """
    if form == "paper":
        return (1 - (2 * ratios - 1).abs()).sum(dim=1).mean()
    if form == "reference":
        still_open = (~frozen).to(ratios.dtype)[:, None]
        count = (still_open.sum() * ratios.shape[1]).clamp(min=1)
        return 2 * (ratios * (1 - ratios) * still_open).sum() / count
    raise OptionError(f"ratio loss {form!r} is unknown; needed one of {RATIO_LOSSES}")
