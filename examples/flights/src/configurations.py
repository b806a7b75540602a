"""The typed settings: what hydra/ may say. A key that is not named here is an error."""

from meguri import Settings
from meguri.loop.settings import DataSettings


class Data(DataSettings):
    """Where the table of features is kept once it is built."""

    cache: str


class Config(Settings):
    """Meguri's settings, with the project's own sections."""

    data: Data
