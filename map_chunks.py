"""Vectors -> a 2-D map of the chunks.

Reads   data/chunks (chunk ids), data/vectors
Writes  data/map/<key>/: map.parquet (chunk_row, x, y), map.json (how it was laid out, and how many are not on it)
Run     uv run map_chunks.py configs/quickstart.py report.map_points=5000
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.cli import run_script
from common.keys import keyed_settings
from common.stages import Job, Stage
from common.store import Artifact
from config import Config
from embed_chunks import CHUNKS, VECTORS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Int


def map_settings(config: Config) -> Mapping[str, object]:
    """What the coordinates depend on: not how a page shows them."""
    return keyed_settings(config.report, drop=("hover_chars",))


def compute_map(job: Job) -> int:
    """Place a sample of the chunks that have a vector; returns their number."""
    import numpy as np
    import pyarrow as pa

    from common.arrays import stored_rows, stored_vectors
    from common.hash_samples import sample_rows
    from common.projection import plane
    from common.stored_chunks import take_chunks

    settings, chunks, vectors = job.config.report, job.inputs["chunks"], job.inputs["vectors"]
    rows = stored_rows(vectors).load()
    ids = take_chunks(chunks, rows, ["chunk_id"])["chunk_id"]
    chosen = sample_rows(settings.seed, "map", ids, settings.map_points)
    sampled = stored_vectors(vectors).take(chosen)
    laid_out = plane(sampled, settings.map_n_neighbors, settings.map_min_dist, settings.seed)
    columns = {"chunk_row": rows[chosen].astype(np.int64), "x": laid_out.points[:, 0], "y": laid_out.points[:, 1]}
    job.part.write_table("map.parquet", pa.table({name: pa.array(column) for name, column in columns.items()}))
    facts = {"method": laid_out.method, "points": len(chosen), "chunks": chunks.rows}
    left_out = {"not_sampled": len(rows) - len(chosen), "without_vector": chunks.rows - len(rows)}
    job.part.write_json("map.json", {**facts, **left_out})
    return len(chosen)


MAP = Stage(
    name="map",
    script="map_chunks.py",
    version=1,
    settings=map_settings,
    compute=compute_map,
    inputs=(CHUNKS, VECTORS),
)


# --- what the pages read of it -------------------------------------------------------------------------------


def placed(clusters: Artifact, rows: Int[np.ndarray, " n"]) -> pa.Table:
    """The lines of `assignments.parquet` for some chunk rows, in their order.

    Raises:
        ValueError: a row is in no cluster, not even the root: map and clusters stem from different vectors.
    """
    import numpy as np

    assigned = clusters.table("assignments.parquet", ["chunk_row", "path", "is_noise"])
    known = assigned["chunk_row"].to_numpy()
    place = np.searchsorted(known, rows)
    found = assigned.take(np.minimum(place, len(known) - 1))
    if found["chunk_row"].to_pylist() != rows.tolist():
        raise ValueError("map: a point's chunk has no cluster; the map and the clusters stem from different vectors")
    return found


if __name__ == "__main__":
    raise SystemExit(
        run_script(__doc__ or "", (MAP,), next_command=lambda session: session.command("visualize_clusters.py"))
    )
