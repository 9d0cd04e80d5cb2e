"""Drawing tokens: the distribution is the stated one (against transformers' own filters), and a row stands alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch
    from scipy.stats import chisquare
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    from common.token_sampling import SamplingRows, draw_tokens, kept


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported here, not above: every worker collects this file, and one runs it."""
    global torch, chisquare, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
    global SamplingRows, draw_tokens, kept
    import torch
    from scipy.stats import chisquare
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    from common.token_sampling import SamplingRows, draw_tokens, kept


def rows(count: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> SamplingRows:
    return SamplingRows(torch.full((count,), temperature), torch.full((count,), top_k), torch.full((count,), top_p))


def random_scores(count: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(seed))


def reference(scores: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Probabilities by transformers' own processors, in their order."""
    ids = torch.zeros(len(scores), 1, dtype=torch.long)
    scores = TemperatureLogitsWarper(temperature)(ids, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(ids, scores)
    return torch.softmax(scores, 1)


CASES = [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 5, 1.0), (1.0, 0, 0.8), (0.9, 20, 0.6), (1.0, 1, 1.0), (1.0, 0, 0.01)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CASES)
def test_the_tokens_that_may_be_drawn_are_those_of_transformers(temperature, top_k, top_p):
    scores = random_scores(50, 40)
    probabilities, order = torch.softmax(scores / temperature, 1).sort(1, descending=True)
    ours = kept(probabilities, rows(50, temperature, top_k, top_p))
    ours = torch.zeros_like(ours).scatter_(1, order, ours / ours.sum(1, keepdim=True))
    torch.testing.assert_close(ours, reference(scores, temperature, top_k, top_p), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CASES)
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature, top_k, top_p):
    """Evenly spaced numbers instead of random ones: every count is then within one of what is expected."""
    count = 20_000
    scores = random_scores(1, 12, seed=3).expand(count, -1)
    uniforms = (torch.arange(count) + 0.5) / count
    tokens = draw_tokens(scores, rows(count, temperature, top_k, top_p), uniforms)
    expected = count * reference(scores[:1], temperature, top_k, top_p)[0]
    observed = torch.bincount(tokens, minlength=12)
    assert (observed - expected).abs().max() <= 1.01


def test_random_numbers_give_the_distribution():
    scores = random_scores(1, 8, seed=1).expand(50_000, -1)
    uniforms = torch.rand(50_000, generator=torch.Generator().manual_seed(5))
    observed = torch.bincount(draw_tokens(scores, rows(50_000), uniforms), minlength=8)
    expected = torch.softmax(scores[0].double(), 0) * 50_000
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 0.01


def test_the_ends_of_the_interval_draw_what_may_be_drawn():
    scores = random_scores(2_000, 300)
    for uniform in (0.0, 1.0 - 2**-24):
        tokens = draw_tokens(scores, rows(2_000, top_k=7, top_p=0.9), torch.full((2_000,), uniform))
        allowed = reference(scores, 1.0, 7, 0.9).gather(1, tokens[:, None])
        assert (allowed > 0).all()


def test_a_temperature_of_zero_takes_the_likeliest_in_any_company():
    scores = random_scores(4, 30)
    mixed = SamplingRows(torch.tensor([0.0, 1.0, 0.0, 2.0]), torch.tensor([0, 0, 3, 3]), torch.ones(4))
    tokens = draw_tokens(scores, mixed, torch.full((4,), 0.999))
    assert tokens[[0, 2]].tolist() == scores.argmax(1)[[0, 2]].tolist()
    assert rows(2, temperature=0.0).greedy
    assert not mixed.greedy


def test_a_row_does_not_depend_on_the_others():
    scores = random_scores(30, 100)
    settings = SamplingRows(torch.linspace(0, 2, 30), torch.arange(30) % 7, torch.linspace(0.3, 1, 30))
    uniforms = torch.rand(30, generator=torch.Generator().manual_seed(1))
    together = draw_tokens(scores, settings, uniforms)
    for row in range(30):
        own = SamplingRows(settings.temperature[[row]], settings.top_k[[row]], settings.top_p[[row]])
        assert draw_tokens(scores[[row]], own, uniforms[[row]])[0] == together[row]


def test_one_number_for_each_row():
    with pytest.raises(ValueError, match="uniforms"):
        draw_tokens(random_scores(3, 5), rows(3), torch.zeros(2))
