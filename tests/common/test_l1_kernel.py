"""The city-block kernel: every size of remainder, and an installation in which nothing can be kept."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from common import l1_kernel
from tests.common.test_neighbours import random_vectors


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 31, 32, 33, 35, 67])
@pytest.mark.parametrize("dims", [1, 17, 64])
def test_equals_scipy_for_any_number_of_rows(rows, dims):
    vectors, queries = random_vectors(rows, dims), random_vectors(3, dims, seed=1)
    out = np.full((3, rows), np.nan, dtype=np.float32)
    l1_kernel.negative_l1(queries, vectors, out)
    np.testing.assert_allclose(-out, cdist(queries, vectors, "cityblock"), rtol=1e-5)


def test_compiles_where_compiled_code_cannot_be_kept(monkeypatch):
    compile_in_memory = numba.njit
    asked: list[bool] = []

    def njit(*, cache: bool = False, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_in_memory(**options)

    monkeypatch.setattr(numba, "njit", njit)
    kernel = l1_kernel._compiled.__wrapped__()
    out = np.empty((1, 5), dtype=np.float32)
    kernel(np.ones((1, 8), np.float32), np.zeros((5, 8), np.float32), out)
    assert asked == [True, False]
    assert (out == -8).all()
