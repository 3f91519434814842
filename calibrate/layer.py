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
    each. Source: VQ4DiT (arXiv 2408.17131) eq. 6 and the reconstruction below it.
    """

    codewords: Tensor  # (O * G, n) int64 rows of the flattened codebook; n = 1 once hard
    frozen: Tensor  # (O * G,) bool

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
            candidates: (O, G, n) int64, each < K.
            ratio_logits: (O, G, n), None for n = 1.
            bias: (O,).
            layout: sizes and column order; assignment layout ROWS.
        """
        super().__init__()
        self.layout = layout
        self.out_features, _, num_candidates = candidates.shape
        row_groups, codebook_size, _ = codebook.shape
        group = torch.arange(self.out_features) // (self.out_features // row_groups)  # (O,)
        rows = candidates + group[:, None, None] * codebook_size
        self.codebook = nn.Parameter(codebook.clone())
        self.bias = nn.Parameter(bias.clone())
        self.ratio_logits: nn.Parameter | None = None
        if ratio_logits is not None and num_candidates > 1:
            self.ratio_logits = nn.Parameter(ratio_logits.reshape(-1, num_candidates).clone())
        self.register_buffer("codewords", rows.reshape(-1, num_candidates), persistent=False)
        self.register_buffer(
            "frozen", torch.zeros(len(self.codewords), dtype=torch.bool), persistent=False
        )
        inverse = np.argsort(column_order(layout))
        self.register_buffer("_inverse", torch.from_numpy(inverse), persistent=False)

    @property
    def is_soft(self) -> bool:
        """Whether ratios are still open."""
        return self.ratio_logits is not None

    def ratios(self) -> Tensor:
        """Ratios over the candidates, (O * G, n); one-hot where frozen. Soft layers only."""
        assert self.ratio_logits is not None
        soft = self.ratio_logits.softmax(dim=-1)
        hard = F.one_hot(self.ratio_logits.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
        return torch.where(self.frozen[:, None], hard, soft)

    def weight(self, ratios: Tensor | None = None) -> Tensor:
        """The weight (O, I) that the layer stands for now."""
        flat = self.codebook.flatten(0, 1)  # (R * K, d)
        if self.ratio_logits is None:
            sub_vectors = flat.index_select(0, self.codewords[:, 0])
        else:
            ratios = self.ratios() if ratios is None else ratios
            sub_vectors = sum(
                ratios[:, i : i + 1] * flat.index_select(0, self.codewords[:, i])
                for i in range(ratios.shape[1])
            )
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
        best = self.ratio_logits.argmax(dim=-1, keepdim=True)
        self.codewords = self.codewords.gather(1, best)
        self.ratio_logits = None
        self.frozen.fill_(True)

    def assignments(self) -> Tensor:
        """Codeword of each sub-vector, (O, G) uint8; hard layers only."""
        assert not self.is_soft, "harden first"
        indices = self.codewords[:, 0] % self.codebook.shape[1]
        return indices.reshape(self.out_features, -1).to(torch.uint8)

    @torch.no_grad()
    def quantized(self) -> QuantizedLayer:
        """The hard layer as it is stored: float16 codebook, packed assignments."""
        return QuantizedLayer(
            codebook=self.codebook.detach().numpy().astype(np.float16),
            assignments=pack_assignments(self.assignments().numpy(), self.layout),
            bias=self.bias.detach().numpy().copy(),
            layout=self.layout,
        )
