"""What is known of the airports, the carriers and the sky when a flight is asked about: said once, for training and serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meguri import Events

from src.repository import data_manager

ROOT = Path(__file__).parents[1]
departed = Events("departed", by="origin", at="left_at", known="0s")
landed = Events("landed", by="dest", at="landed_at", known="0s")
weather = Events("weather", by="origin", at="time_hour", known="1h")  # its hour is over

features = {
    "origin_delay": departed.mean("delay", over="2h").round(2),
    "carrier_delay": departed.by("origin", "carrier").mean("delay", over="6h").round(2),
    "arrival_delay": landed.by("origin").mean("delay", over="4h").round(2),
    "dest_delay": landed.mean("delay", over="6h").round(2),
    **{column: weather.last(column) for column in ("temp", "humid", "wind_speed", "precip", "visib")},
}


def sources(settings: Any) -> Any:
    return data_manager.tables(ROOT / settings.data.cache)
