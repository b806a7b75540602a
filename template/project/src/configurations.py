"""The typed settings: what hydra/ may say. A key that is not named here is an error."""

from datetime import date

from meguri import Settings
from meguri.loop.settings import DataSettings


class Data(DataSettings):
    """The project's own settings of its source."""

    start: date


class Config(Settings):
    """Meguri's settings, with the project's own sections."""

    data: Data
