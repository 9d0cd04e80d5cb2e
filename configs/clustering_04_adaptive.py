"""The `adaptive` preset, which chooses the number of clusters by the data, on the documents of the quickstart."""

from dataclasses import replace

from config import ClusteringConfig
from configs.quickstart import config as quickstart

config = replace(quickstart, name="clustering_04_adaptive", clustering=ClusteringConfig(preset="adaptive"))
