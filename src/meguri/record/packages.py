"""Packages: the versions that are installed, those that a lock names, and what differs between two lists of them."""

from __future__ import annotations

import json
import platform
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from meguri.base.errors import DataError

_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*\])?\s*===?\s*([^\s;\\,]+)")
_WHEEL = re.compile(r"(?:^|[/ ])([A-Za-z0-9_.]+)-([^-/\s]+)-(?:[^-/\s]+-)?[^-/\s]+-[^-/\s]+-[^-/\s]+\.whl")


def installed() -> dict[str, str]:
    """The version of Python and of every package on its path, by normal name.

    Read from the names of their folders: two milliseconds for two hundred packages, whose metadata take 360.
    """
    found = {"python": platform.python_version()}
    for entry in sys.path:
        try:
            names = [path.name for path in Path(entry or ".").iterdir()]
        except OSError:
            continue
        for file in sorted(names):
            stem, mark, kind = file.rpartition(".")
            name, dash, version = stem.partition("-")
            if mark and dash and kind in ("dist-info", "egg-info"):
                found.setdefault(normal(name), version.partition("-py")[0])  # the first on the path is what is imported
    return dict(sorted(found.items()))


def used() -> set[str]:
    """The packages that this process has imported, Python among them; takes half a second, as it reads what each ships."""
    from importlib.metadata import packages_distributions

    loaded = {name.partition(".")[0] for name in sys.modules}
    makers = packages_distributions()
    return {"python", *(normal(maker) for name in loaded for maker in makers.get(name, []))}


def locked(name: str, text: str) -> dict[str, str]:
    """The versions that a lock's text names; ``name`` is its file's, one of uv.lock, poetry.lock, Pipfile.lock, requirements.txt.

    Of a package that the lock has in several versions (one for each platform) it gives all, joined by " or ".
    Raises DataError for a text that is no such lock.
    """
    pairs: list[tuple[str, str]] = []
    try:
        if name == "Pipfile.lock":
            pairs = _pipfile(text)
        elif name.endswith(".lock"):
            for package in tomllib.loads(text).get("package", []):
                here = {"virtual", "editable", "directory"} & set(package.get("source", {}))
                if "version" in package and not here:
                    pairs.append((package["name"], package["version"]))
        else:
            pairs = _requirements(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the lock {name} cannot be read: {error}", where=name, fix="make it again") from error
    found: dict[str, list[str]] = {}
    for package, version in pairs:
        versions = found.setdefault(normal(package), [])
        if version not in versions:
            versions.append(version)
    return {package: " or ".join(versions) for package, versions in sorted(found.items())}


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """What differs between two lists: name -> version then and now, None where it was not there."""
    pairs = {name: (then.get(name), now.get(name)) for name in sorted({*then, *now})}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b and not (a and b and b in a.split(" or "))}


def normal(name: str) -> str:
    """A package's name as every index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pipfile(text: str) -> list[tuple[str, str]]:
    found = json.loads(text)
    each = [item for part in ("default", "develop") for item in found.get(part, {}).items()]
    pairs = [(name, entry["version"].removeprefix("==")) for name, entry in each if "version" in entry]
    wheels = "\n".join(str(entry.get("file") or entry.get("path", "")) for _, entry in each)
    return pairs + _requirements(wheels)


def _requirements(text: str) -> list[tuple[str, str]]:
    pairs = []
    for line in text.splitlines():
        pinned, wheel = _PINNED.match(line.strip()), _WHEEL.search(line)
        if pinned:
            pairs.append((pinned[1], pinned[2]))
        elif wheel and not line.lstrip().startswith("#"):
            pairs.append((wheel[1], wheel[2]))
    return pairs
