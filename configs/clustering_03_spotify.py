"""The `spotify` preset with its own numbers, on the documents of the quickstart (whose vectors it shares)."""

from dataclasses import replace

from config import ClusteringConfig
from configs.quickstart import config as quickstart

config = replace(quickstart, name="clustering_03_spotify", clustering=ClusteringConfig(preset="spotify"))
