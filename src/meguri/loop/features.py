"""A project's features: ``features`` of ``src/features.py``, and what they are read from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from meguri.base.errors import ContractError, JobError
from meguri.loop.job import import_from

if TYPE_CHECKING:
    from meguri.data.features import Features
    from meguri.data.sources import Sources
    from meguri.loop.project import Project


def features_of(project: Project) -> Features | None:
    """The project's features, held against its contract; None when it has none.

    Raises ContractError for a definition that would see the future.
    """
    from meguri.data.features import judge

    if not project.has_features:
        return None
    found = import_from(project.root, "src.features", "features")
    if not isinstance(found, dict):
        what = f"`features` is a {type(found).__qualname__}"
        raise ContractError(what, where="src/features.py", fix='write features = {"name": definition, …}')
    judge(found, project.contract)
    return cast("Features", found)


def sources_of(project: Project, give: Callable[[str], Any]) -> Sources:
    """What the events are read from: ``sources`` of ``src/features.py``, or else the warehouse.

    ``sources`` is a dict of frames by table name, or a function that gives one and is handed what its parameters name, as
    jobs are; ``give`` hands it out.
    """
    try:
        found = import_from(project.root, "src.features", "sources")
    except JobError:
        return give("warehouse")
    return found(**{need: give(need) for need in inspect.signature(found).parameters}) if callable(found) else found
