"""Prose: notation of documents is taken out, what they say stays, and nothing takes long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.keyphrases import ngrams
from common.naming_prose import prose


def words(text: str) -> list[str]:
    """The telling words of a text's prose."""
    return ngrams(prose(text).lower(), 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("See https://www.example.org/a_b?c=d#e for bread.", ["bread"]),
        ("See www.example.org/bread and example.com, bread", ["bread"]),
        ("write to jane.doe@mail.example.org about bread", ["write", "bread"]),
        ("doi:10.1000/xyz-123 bread 10.1000/abc", ["bread"]),
        ("<p class='intro'>bread &amp; butter</p><!-- hidden words -->", ["bread", "butter"]),
        ("<script>var loaf = 1;</script>bread", ["bread"]),
        ("bread < butter > jam", ["bread", "butter", "jam"]),
        ('[bread](https://example.org/a_(b) "title") ![loaf](loaf.png)', ["bread", "loaf"]),
        (":class:`~bakery.Bread` and :ref:`the oven <oven-label>`", ["bakery", "bread", "oven"]),
        (":param str bread: the loaf\n:rtype: list\n    :raises OvenError: burnt", ["loaf", "list", "burnt"]),
        (".. note:: bread\n.. versionadded:: 1.2", ["bread"]),
        ("\\begin{bread} \\textbf{loaf} \\alpha \\end{bread}", ["loaf"]),
        ("Args:\n  bread: a loaf\nReturns:\nan oven", ["bread", "loaf", "oven"]),
        ("Bread rises: yeast", ["bread", "rises", "yeast"]),
    ],
)
def test_notation_is_no_word(text, found):
    assert words(text) == found


SESSION = """Slice the bread before butter melts slowly.

>>> import numpy as np
>>> np.zeros(3)
array([0., 0., 0.])

Toast it."""
FENCED = "Slice the bread before butter melts slowly.\n```python\nimport numpy\n\nnumpy.zeros(3)\n```\nToast it."
DIRECTIVE = """Slice the bread before butter melts slowly.

.. code-block:: python

    import numpy

    numpy.zeros(3)

Toast it."""


@pytest.mark.parametrize("text", [SESSION, FENCED, DIRECTIVE, FENCED.replace("```", "~~~")])
def test_code_samples_are_no_words_where_there_is_prose(text):
    assert words(text) == ["slice", "bread", "butter", "melts", "slowly", "toast"]


def test_a_text_that_is_only_code_keeps_it():
    assert words(">>> import numpy\n>>> numpy.zeros(3)\narray") == ["import", "numpy", "numpy", "zeros", "array"]
    assert words("```\nimport numpy\n```") == ["import", "numpy"]


def test_no_phrase_crosses_what_was_taken_out():
    assert "bread butter" not in ngrams(prose("bread https://example.org butter"), 2)
    assert "bread butter" in ngrams(prose("bread\nbutter"), 2)


def test_plain_text_is_left_as_it_is():
    text = "Water boils at 100 °C (212 °F); it's a fact: 2 < 3, and “quotes” stay — as do [brackets] and a_name."
    assert prose(text) == text


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(st.sampled_from(list("ab.:`<>[]()/@\\\n \t>`~{}1-!&;")), max_size=300))
def test_no_text_breaks_it(text):
    assert isinstance(prose(text), str)


@pytest.mark.parametrize(
    "unit",
    [
        ">>> ",
        "a.",
        "a@",
        "[",
        "[a](",
        "<a",
        "`<",
        ":a",
        "```\n",
        ".. code::\n  ",
        "://a",
        "\\begin{",
        "<!--",
        "10.1234/",
    ],
)
def test_time_grows_no_faster_than_the_text(unit):
    """A regular expression that backtracks would not come to an end within the test's time limit."""
    prose(unit * (200_000 // len(unit)))
