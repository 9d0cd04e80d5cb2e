"""The main job: every core stage of a config, in order; what is finished is reused.

Reads   a config (its corpora: installed packages, local files or hub datasets)
Writes  data/<stage>/<key>/ for documents, chunks, vectors, neighbours, clusters, names, map, annotations,
        benchmarks, contamination, taxonomy, report
Run     uv run run_pipeline.py configs/quickstart.py
"""

from __future__ import annotations

from argparse import Namespace

from annotate_with_clusters import ANNOTATIONS, print_annotations
from cluster_corpus import CLUSTERS
from common.cli import run_script
from common.stages import Session
from embed_chunks import CHUNKS, VECTORS
from map_chunks import MAP
from multi_benchmark_similarity import BENCHMARKS, CONTAMINATION, print_contamination
from name_clusters import NAMES, print_named_tree
from prepare_data import DOCUMENTS
from report import REPORT
from search import NEIGHBOURS, print_neighbours
from visualize_clusters import TAXONOMY

STAGES = (
    *(DOCUMENTS, CHUNKS, VECTORS, NEIGHBOURS, CLUSTERS, NAMES, MAP, ANNOTATIONS),
    *(BENCHMARKS, CONTAMINATION, TAXONOMY, REPORT),
)
LEAKS_SHOWN = 4


def present(session: Session, args: Namespace) -> object:
    """Print searches, the named tree, where the outputs fall, leaked questions, and the pages; a table follows."""
    pages = {
        "taxonomy": session.load(TAXONOMY).path("taxonomy.html"),
        "report": session.load(REPORT).path("report.html"),
    }
    if not args.json:
        print_neighbours(session)
        print()
        print_named_tree(session)
        if session.load(ANNOTATIONS).rows:
            print()
            print_annotations(session)
        if session.load(BENCHMARKS).rows:
            print()
            print_contamination(session, LEAKS_SHOWN)
        print()
        for name, path in pages.items():
            print(f"{name + ':':<9} {path}")
        print()
    return {name: str(path) for name, path in pages.items()}


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            STAGES,
            script="run_pipeline.py",
            present=present,
            next_command=lambda session: session.command("search.py", "--query", "your question"),
        )
    )
