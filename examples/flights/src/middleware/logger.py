"""One logger for the whole project."""

import logging


def get_logger(name: str) -> logging.Logger:
    """A logger that writes to stderr, with the time and the file's name."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return logging.getLogger(name)
