"""Corpora with known topics for the clustering benchmark: texts, one column of labels for each level, and vectors.

A library: `clustering.py` beside it is run. Levels go from coarse to fine, and a label names its whole path
(`science/astronomy-2e/3`), so that chapter 3 of two books is not one class. Real corpora lie in the folder that
CORPUS_PROXIMITY_REALDATA names and never enter the project.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Int

REALDATA = "CORPUS_PROXIMITY_REALDATA"
LSA_DIMENSIONS, LSA_FEATURES = 200, 20_000
SMALLEST_DOCSTRING = 80
# Distributions about different things, and a module of each that tells whether it is installed.
DOCSTRING_PACKAGES = {
    **{name: name for name in ("datasets", "fsspec", "hdbscan", "matplotlib", "networkx", "nltk")},
    **{name: name for name in ("numba", "numpy", "openai", "pandas", "rich", "scipy", "spacy", "sympy", "tokenizers")},
    **{name: name for name in ("transformers", "pydantic", "aiohttp")},
    "huggingface-hub": "huggingface_hub",
    "scikit-learn": "sklearn",
    "sentence-transformers": "sentence_transformers",
    "umap-learn": "umap",
}
# MMLU's four groups, as its authors' paper names them; every other subject is in the last.
MMLU_GROUPS = {
    "stem": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
    "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
    "high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
    "social sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
}


@dataclass(frozen=True)
class Labelled:
    """Texts (None when only vectors were given) and, coarse to fine, one label of every row for each level."""

    name: str
    texts: list[str] | None
    levels: dict[str, list[str]]

    def sample(self, rows: int, seed: int) -> Labelled:
        """At most `rows` rows, drawn without replacement, in their order."""
        chosen = chosen_rows(self.size, rows, seed)
        texts = [self.texts[row] for row in chosen] if self.texts is not None else None
        return Labelled(self.name, texts, {name: [of[row] for row in chosen] for name, of in self.levels.items()})

    @property
    def size(self) -> int:
        return len(next(iter(self.levels.values())))

    def codes(self) -> dict[str, Int[np.ndarray, " rows"]]:
        """The labels of each level as integers."""
        return {name: np.unique(labels, return_inverse=True)[1].reshape(-1) for name, labels in self.levels.items()}


def chosen_rows(size: int, rows: int, seed: int) -> Int[np.ndarray, " chosen"]:
    """Row numbers, increasing; all of them when there are no more than `rows`."""
    if size <= rows:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, rows, replace=False))


def nested(paths: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, list[str]]:
    """Levels from the path of every row: the label of level i is its first i + 1 steps."""
    return {name: ["/".join(path[: depth + 1]) for path in paths] for depth, name in enumerate(names)}


# --- corpora -------------------------------------------------------------------------------------------------


def realdata() -> Path | None:
    """The folder of real data, where there is one."""
    named = os.environ.get(REALDATA)
    return Path(named) if named and Path(named).is_dir() else None


def openstax(folder: Path) -> Labelled:
    """Paragraphs of textbooks; front matter and appendices, which have no chapter, are left out."""
    names = ("subject", "book", "chapter", "module")
    rows = [row for path in sorted((folder / "corpora/openstax").glob("*.jsonl.gz")) for row in _gzipped(path)]
    rows = [row for row in rows if row["chapter"]]
    return Labelled("openstax", [row["text"] for row in rows], nested([[row[n] for n in names] for row in rows], names))


def _gzipped(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def mmlu(folder: Path) -> Labelled:
    """Test questions with their choices, in four groups of subjects."""
    group_of = {subject: group for group, subjects in MMLU_GROUPS.items() for subject in subjects.split()}
    texts, paths = [], []
    with zipfile.ZipFile(folder / "benchmarks/mmlu/mmlu.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith("_test.csv")):
            subject = Path(name).stem.removesuffix("_test")
            with io.TextIOWrapper(archive.open(name), "utf-8", newline="") as stream:
                for row in csv.reader(stream):
                    texts.append("\n".join(row[:5]))
                    paths.append((group_of.get(subject, "other"), subject))
    return Labelled("mmlu", texts, nested(paths, ("group", "subject")))


def ag_news(folder: Path) -> Labelled:
    """News in four classes."""
    with (folder / "corpora/ag_news/test.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    return Labelled("ag-news", [f"{row[1]}\n{row[2]}" for row in rows], {"class": [row[0] for row in rows]})


def docstrings() -> Labelled:
    """Docstrings of packages that a plain install has, by package and module: needs no data at all."""
    from importlib.util import find_spec

    from common.docstrings import read_packages
    from common.rows import Row
    from config import PackagesReader

    packages = tuple(name for name, module in DOCSTRING_PACKAGES.items() if find_spec(module))
    found = read_packages(PackagesReader(packages=packages, min_chars=SMALLEST_DOCSTRING))
    rows = [row.fields for row in found if isinstance(row, Row)]
    paths = [(row["package"], row["module"]) for row in rows]
    return Labelled("docstrings", [row["text"] for row in rows], nested(paths, ("package", "module")))


CORPORA: dict[str, Callable[[Path], Labelled]] = {"openstax": openstax, "mmlu": mmlu, "ag-news": ag_news}


def labels_of_file(path: Path, rows: int) -> Labelled:
    """A CSV with a header: one column for each level, coarse to fine, one line for each row of the vectors."""
    with path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream))
    if len(lines) != rows + 1 or any(len(line) != len(lines[0]) for line in lines):
        raise SystemExit(f"{path}: a header and {rows:,} lines of as many columns are wanted, as the vectors have rows")
    return Labelled(path.stem, None, nested(lines[1:], lines[0]))


# --- vectors -------------------------------------------------------------------------------------------------


def embed(texts: Sequence[str], model: str | None, seed: int) -> Float32[np.ndarray, "rows dims"]:
    """Unit vectors: of a sentence-transformers folder, or without one TF-IDF and an SVD fitted on the texts."""
    from common.units import unit_rows

    if model is None:
        from common.lsa import fit_lsa

        fitted = fit_lsa(texts, dimensions=LSA_DIMENSIONS, max_features=LSA_FEATURES, seed=seed)
        return fitted.embed(texts)
    from sentence_transformers import SentenceTransformer

    found = SentenceTransformer(model, device="cpu").encode(list(texts), show_progress_bar=False)
    return unit_rows(np.asarray(found, dtype=np.float32), smallest=1e-6)
