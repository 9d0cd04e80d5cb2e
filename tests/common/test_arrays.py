"""Shards read as one array, against the array in memory."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from common.arrays import RowRange, SelectedRows, ShardedArray


def shards(folder: Path, arrays: list[np.ndarray]) -> list[Path]:
    paths = [folder / f"shard-{number:05d}.npy" for number in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    return paths


@pytest.fixture
def whole() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((100, 5)).astype(np.float32)


@pytest.mark.parametrize("cuts", [[], [100], [0, 0, 40, 40, 90], [1, 99]])
def test_it_reads_as_the_array_in_memory(tmp_path, whole, cuts):
    sharded = ShardedArray(shards(tmp_path, np.split(whole, cuts)))
    assert (sharded.shape, sharded.dtype, len(sharded)) == ((100, 5), np.float32, 100)
    np.testing.assert_array_equal(sharded.load(), whole)
    wanted = np.random.default_rng(1).integers(0, 100, 300)
    np.testing.assert_array_equal(sharded.take(wanted), whole[wanted])


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_blocks_cover_every_row_once_in_order(tmp_path, whole, rows):
    sharded = ShardedArray(shards(tmp_path, np.split(whole, [0, 33, 66])))
    starts, blocks = zip(*sharded.blocks(rows), strict=True)
    assert list(starts) == list(np.cumsum([0, *(len(block) for block in blocks[:-1])]))
    assert max(len(block) for block in blocks) <= rows
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_one_axis_and_no_shards(tmp_path):
    rows = ShardedArray(shards(tmp_path, [np.arange(3), np.arange(3, 9)]))
    assert rows.shape == (9,)
    assert rows.take(np.array([8, 0])).tolist() == [8, 0]
    empty = ShardedArray([])
    assert len(empty) == 0
    assert empty.load().shape == (0, 0)
    assert empty.take(np.array([], dtype=np.int64)).shape == (0, 0)
    assert list(empty.blocks()) == []


def test_nothing_is_ever_the_wrong_row(tmp_path, whole):
    sharded = ShardedArray(shards(tmp_path, [whole]))
    with pytest.raises(IndexError, match="row -1 of an array of 100 rows"):
        sharded.take(np.array([5, -1]))
    with pytest.raises(IndexError, match="row 100"):
        sharded.take(np.array([100]))
    with pytest.raises(TypeError, match="whole numbers, not bool"):
        sharded.take(np.ones(100, dtype=bool))
    with pytest.raises(TypeError, match="whole numbers, not float64"):
        sharded.take(np.array([1.5]))


def test_the_shards_cannot_be_written_to(tmp_path, whole):
    _, block = next(ShardedArray(shards(tmp_path, [whole])).blocks())
    with pytest.raises(ValueError, match="read-only"):
        block[0] = 0


def test_shards_that_do_not_fit_together_are_refused(tmp_path, whole):
    with pytest.raises(ValueError, match=r"shard-00001.npy.*does not continue shard-00000.npy"):
        ShardedArray(shards(tmp_path, [whole, whole[:, :4]]))
    with pytest.raises(ValueError, match="does not continue"):
        ShardedArray(shards(tmp_path, [whole, whole.astype(np.float16)]))


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError):
        ShardedArray([path])


def test_more_shards_than_open_files(tmp_path):
    """A memory map holds a descriptor for as long as it lives."""
    paths = shards(tmp_path, [np.array([number]) for number in range(400)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        sharded = ShardedArray(paths)
        assert sharded.load().tolist() == list(range(400))
        assert sharded.take(np.arange(399, -1, -1)).tolist() == list(range(399, -1, -1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_selected_rows_read_as_the_rows_they_are(tmp_path, whole):
    sharded = ShardedArray(shards(tmp_path, np.split(whole, [33, 66])))
    rows = np.random.default_rng(2).integers(0, 100, 50)
    some = SelectedRows(sharded, rows)
    assert (len(some), some.shape, some.dtype) == (50, (50, 5), np.float32)
    np.testing.assert_array_equal(some.load(), whole[rows])
    np.testing.assert_array_equal(np.concatenate([block for _, block in some.blocks(7)]), whole[rows])
    np.testing.assert_array_equal(some.take(np.array([49, 0])), whole[rows[[49, 0]]])
    with pytest.raises(IndexError, match="row 100 of an array of 100 rows"):
        SelectedRows(sharded, np.array([3, 100]))
    with pytest.raises(IndexError):
        some.take(np.array([-1]))


@pytest.mark.parametrize(("first", "stop"), [(0, 100), (10, 35), (33, 66), (40, 40), (0, 1), (99, 100)])
def test_a_range_of_rows_reads_as_a_slice(tmp_path, whole, first, stop):
    ranged = RowRange(ShardedArray(shards(tmp_path, np.split(whole, [0, 33, 33, 66]))), first, stop)
    assert len(ranged) == stop - first
    starts, blocks = [], [np.empty((0, 5), np.float32)]
    for start, block in ranged.blocks(7):
        starts.append(start)
        blocks.append(block)
    assert starts == list(np.cumsum([len(block) for block in blocks[:-1]]))
    np.testing.assert_array_equal(np.concatenate(blocks), whole[first:stop])
    np.testing.assert_array_equal(ranged.load(), whole[first:stop])
    np.testing.assert_array_equal(ranged.take(np.arange(stop - first)[::-1]), whole[first:stop][::-1])
    with pytest.raises(IndexError, match=f"row {stop - first} of an array of {stop - first} rows"):
        ranged.take(np.array([stop - first]))


def test_a_range_beyond_the_rows_is_refused(tmp_path, whole):
    with pytest.raises(IndexError, match="rows 90 to 101 of an array of 100 rows"):
        RowRange(ShardedArray(shards(tmp_path, [whole])), 90, 101)
