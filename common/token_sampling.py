"""The next token of each row of a batch, drawn so that it depends on nothing but the row itself.

A token is found by inverting the distribution at a number drawn uniformly from [0, 1). Each row has its own numbers,
from its own seed, so a row's text is the same alone and in any batch (up to the last bits of the model's scores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class SamplingRows:
    """How each row's tokens are drawn.

    Args:
        temperature: (rows,) 0 takes the likeliest token.
        top_k: (rows,) tokens that may be drawn; 0 is every one.
        top_p: (rows,) the likeliest tokens whose probabilities reach this sum may be drawn (Holtzman et al. 2020).
    """

    temperature: Float[torch.Tensor, " rows"]
    top_k: Int[torch.Tensor, " rows"]
    top_p: Float[torch.Tensor, " rows"]

    @property
    def greedy(self) -> bool:
        """Whether no row draws anything."""
        return not bool(self.temperature.any())


def kept(
    probabilities: Float[torch.Tensor, "rows vocabulary"], rows: SamplingRows
) -> Float[torch.Tensor, "rows vocabulary"]:
    """Probabilities, sorted from the largest, with those outside `top_k` and `top_p` set to 0; the first always stays.

    `top_k` goes first, and `top_p` counts the probabilities that are left, renormalised, as transformers does.
    """
    position = torch.arange(probabilities.shape[1], device=probabilities.device)
    outside = (rows.top_k[:, None] > 0) & (position >= rows.top_k[:, None])
    probabilities = probabilities.masked_fill(outside, 0.0)
    probabilities = probabilities / probabilities.sum(1, keepdim=True)
    before = probabilities.cumsum(1) - probabilities
    outside = (before >= rows.top_p[:, None]) & (position > 0) & (rows.top_p[:, None] < 1)
    return probabilities.masked_fill(outside, 0.0)


def draw_tokens(
    scores: Float[torch.Tensor, "rows vocabulary"],
    rows: SamplingRows,
    uniforms: Float[torch.Tensor, " rows"],
) -> Int[torch.Tensor, " rows"]:
    """One token for each row.

    Args:
        scores: the model's logits.
        uniforms: (rows,) from [0, 1), one for each row.
    """
    check_shape("uniforms", uniforms, "rows", check_shape("scores", scores, "rows vocabulary"))
    likeliest = scores.argmax(1)
    if rows.greedy:
        return likeliest
    # A greedy row is divided by 1 and its draw thrown away.
    divisor = torch.where(rows.temperature > 0, rows.temperature, 1.0)
    probabilities = torch.softmax(scores.float() / divisor[:, None], 1)
    ordered, tokens = probabilities.sort(dim=1, descending=True, stable=True)
    weights = kept(ordered, rows)
    sums = weights.cumsum(1)
    chosen = torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True)
    # Rounding may point beyond the last token that is kept.
    last = (weights > 0).sum(1, keepdim=True) - 1
    drawn = tokens.gather(1, torch.minimum(chosen, last))[:, 0]
    return torch.where(rows.temperature > 0, drawn, likeliest)
