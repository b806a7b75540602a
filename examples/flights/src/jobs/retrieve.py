"""Get rows from the source: for training, for labels that have come, and to predict."""

from pathlib import Path

from src.repository import data_manager

ROOT = Path(__file__).parents[2]


def retrieve(settings, since, until, now):
    return data_manager.read(ROOT / settings.data.cache, since, until, now)
