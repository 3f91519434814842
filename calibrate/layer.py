"""VQLinear: a linear layer on codewords, soft while its ratios are open, hard once decided."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vq4dit.plugins.layer import QuantizedLayer
from vq4dit.plugins.layout import Layout
from vq4dit.plugins.packing import column_order, pack_assignments


class VQLinear(nn.Module):
    """y = x W^T + b where W is gathered from `codebook` (R, K, d), a trained parameter like `bias`.

    Soft: W's sub-vectors are ratio-weighted averages of their candidates, ratios = softmax of the
    parameter `ratio_logits` (O * G, n); a frozen sub-vector counts as one-hot. Hard: one codeword
    each, kept as one byte. Source: VQ4DiT (arXiv 2408.17131) eq. 6 and the reconstruction below it.
    """

    candidates: Tensor  # soft: (O, G, n) uint8
    frozen: Tensor  # soft: (O * G,) bool
    assignments: Tensor  # hard: (O, G) uint8

    def __init__(
        self,
        *,
        codebook: Tensor,
        candidates: Tensor,
        ratio_logits: Tensor | None,
        bias: Tensor,
        layout: Layout,
    ) -> None:
        """Make a soft layer, or a hard one where candidates has one column.

        Args:
            codebook: (R, K, d).
            candidates: (O, G, n) integers, each < K.
            ratio_logits: (O, G, n), None for n = 1.
            bias: (O,).
            layout: sizes and column order; assignment layout ROWS.
        """
        super().__init__()
        self.layout = layout
        self.out_features, _, num_candidates = candidates.shape
        self.codebook = nn.Parameter(codebook.clone())
        self.bias = nn.Parameter(bias.clone())
        self.ratio_logits: nn.Parameter | None = None
        inverse = torch.from_numpy(np.argsort(column_order(layout))).to(codebook.device)
        self.register_buffer("_inverse", inverse, persistent=False)
        if ratio_logits is None or num_candidates == 1:
            self._set_hard(candidates[..., 0].to(torch.uint8))
            return
        self.ratio_logits = nn.Parameter(ratio_logits.reshape(-1, num_candidates).clone())
        self.register_buffer("candidates", candidates.to(torch.uint8), persistent=False)
        nothing = torch.zeros_like(self.ratio_logits[:, 0], dtype=torch.bool)
        self.register_buffer("frozen", nothing, persistent=False)

    @property
    def is_soft(self) -> bool:
        """Whether ratios are still open."""
        return self.ratio_logits is not None

    def ratios(self) -> Tensor:
        """Ratios over the candidates, (O * G, n); one-hot where frozen. Soft layers only."""
        logits = self._open_logits()
        soft = logits.softmax(dim=-1)
        hard = F.one_hot(logits.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
        return torch.where(self.frozen[:, None], hard, soft)

    def weight(self) -> Tensor:
        """The weight (O, I) that the layer stands for now."""
        if self.is_soft:
            ratios = self.ratios()
            parts = [
                ratios[:, i : i + 1] * self._gather(self.candidates[..., i])
                for i in range(ratios.shape[1])
            ]
            sub_vectors = sum(parts[1:], start=parts[0])
        else:
            sub_vectors = self._gather(self.assignments)
        return sub_vectors.reshape(self.out_features, -1).index_select(1, self._inverse)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return F.linear(x, self.weight(), self.bias)

    @torch.no_grad()
    def freeze(self, threshold: float) -> float:
        """Freeze sub-vectors with a ratio above the threshold; returns the share frozen so far."""
        if self.ratio_logits is None:
            return 1.0
        self.frozen |= self.ratio_logits.softmax(dim=-1).max(dim=-1).values > threshold
        return float(self.frozen.float().mean())

    @torch.no_grad()
    def harden(self) -> None:
        """Decide every sub-vector for its highest ratio; the layer is hard from here on."""
        if self.ratio_logits is None:
            return
        best = self.ratio_logits.argmax(dim=-1).reshape(*self.candidates.shape[:2], 1)
        chosen = self.candidates.gather(2, best)[..., 0]
        self.ratio_logits = None
        del self.candidates, self.frozen
        self._set_hard(chosen)

    @torch.no_grad()
    def quantized(self) -> QuantizedLayer:
        """The hard layer as it is stored: float16 codebook, packed assignments.

        Codewords too large for float16 become infinite, which `calibrate.artifact` refuses.
        """
        return QuantizedLayer(
            codebook=self.codebook.detach().half().cpu().numpy(),
            assignments=pack_assignments(self.assignments.cpu().numpy(), self.layout),
            bias=self.bias.detach().cpu().numpy().copy(),
            layout=self.layout,
        )

    def _set_hard(self, assignments: Tensor) -> None:
        self.register_buffer("assignments", assignments, persistent=False)

    def _open_logits(self) -> Tensor:
        if self.ratio_logits is None:
            raise ValueError("the layer is decided and has no ratios")
        return self.ratio_logits

    def _gather(self, indices: Tensor) -> Tensor:
        """Codewords (O * G, d) of indices (O, G) within each row's own codebook."""
        row_groups, codebook_size, _ = self.codebook.shape
        rows_per_group = self.out_features // row_groups
        group = torch.arange(self.out_features, device=indices.device) // rows_per_group
        rows = indices.to(torch.int32) + (group * codebook_size).to(torch.int32)[:, None]
        return self.codebook.flatten(0, 1).index_select(0, rows.reshape(-1))
