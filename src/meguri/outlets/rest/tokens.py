"""Bearer tokens: who may predict, label, or administer; compared in constant time, shown in no log."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from meguri.base.errors import SettingsError
from meguri.outlets.rest.limits import Bucket

SCOPES = ("predict", "label", "admin")


class Tokens:
    """The tokens of a service: each has a name, which goes into the ledger as who brought a label, and scopes.

    ``buckets`` has those whose requests are counted.
    """

    def __init__(self, given: Mapping[str, tuple[str, frozenset[str], float | None]]) -> None:
        self._given = [(token.encode(), name, scopes) for name, (token, scopes, _) in given.items()]
        self.buckets = {name: Bucket(rate) for name, (_, _, rate) in given.items() if rate is not None}

    def allow(self, header: bytes | None, scope: str) -> str | None:
        """The name of the token in an Authorization header that has the scope; "" when it has not, None when there is none."""
        kind, _, given = (header or b"").partition(b" ")
        found: str | None = None
        if kind.lower() != b"bearer":
            return None
        for token, name, scopes in self._given:  # all of them: the time tells nothing
            if hmac.compare_digest(given.strip(), token):
                found = name if scope in scopes else ""
        return found


def read(path: Path) -> Tokens:
    """The tokens of a JSON file, ``{"name": {"token": "…", "scopes": ["predict"], "per_second": 50}}``.

    Without ``per_second`` a token may ask as often as it likes. Raises SettingsError for a file that cannot be read, that
    others may read, or that says something else.
    """
    fix = 'write {"name": {"token": "…", "scopes": ["predict", "label", "admin"]}}'
    try:
        if not private(path):
            raise SettingsError("others may read the tokens", where=path, fix=f"chmod 600 {path.name}")
        given = json.loads(path.read_text(encoding="utf-8"))
        tokens = {}
        for name, one in given.items():
            token, scopes, rate = str(one["token"]), frozenset(one["scopes"]), one.get("per_second")
            if len(token) < 16 or not scopes <= set(SCOPES):
                what = f"the token '{name}' is shorter than 16 characters, or has a scope beside {', '.join(SCOPES)}"
                raise SettingsError(what, where=path, fix=fix)
            unknown = one.keys() - {"token", "scopes", "per_second"}
            if unknown:
                what = f"the token '{name}' has an unknown key '{min(unknown)}'"
                raise SettingsError(what, where=path, fix="a token has token, scopes and per_second")
            if rate is not None and (isinstance(rate, bool) or not 0 < float(rate) < float("inf")):
                what = f"the token '{name}' has a per_second that is no number above 0"
                raise SettingsError(what, where=path, fix='write "per_second": 50, or leave it out')
            tokens[str(name)] = token, scopes, None if rate is None else float(rate)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError("the tokens cannot be read", where=path, fix=fix) from error
    return Tokens(tokens)


def private(path: Path) -> bool:
    """Whether only its owner may read a file; if that is root its group may as well, as libpq has it for keys: that is how
    Kubernetes mounts a secret.
    """
    about = path.stat()
    return os.name != "posix" or not about.st_mode & (0o037 if about.st_uid == 0 else 0o077)


def make(path: Path) -> None:
    """Write a first file with one token for everything, which only its owner may read, when there is none yet."""
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600), encoding="utf-8") as file:
            one = {"token": secrets.token_urlsafe(24), "scopes": list(SCOPES)}
            file.write(json.dumps({"first": one}, indent=2) + "\n")
    except FileExistsError:
        return
