"""Get rows from the source: for training, for labels that have come, and to predict."""

from src.repository import data_manager


def retrieve(settings, since, until, now):
    return data_manager.read(settings.data.start, since, until, now)
