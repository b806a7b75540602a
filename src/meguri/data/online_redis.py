"""The online table in Redis: one hash, renamed into its place, read by one command."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from meguri.base.errors import DataError
from meguri.base.extras import need
from meguri.base.redact import redact
from meguri.data.online import Found

HEAD, AT = "", "at"  # no entity has such a key
BATCH = 10_000
DRAFT = 3600  # seconds after which the server forgets what a dead writer left


class RedisTable:
    """The hash ``meguri:name`` on the Redis server behind ``url``."""

    def __init__(self, url: str, name: str = "features") -> None:
        self.url, self.name = url, f"meguri:{name}"
        with self._told() as redis:
            self._redis: Any = redis.Redis.from_url(url, decode_responses=True)
            self._redis.ping()

    def replace(self, entries: Iterable[tuple[str, str]], *, head: str, at: int) -> bool:
        """Fill another hash, and rename it in one step; readers see the old one until then."""
        draft = f"{self.name}:{uuid.uuid4().hex}"
        with self._told() as redis:
            try:
                self._redis.hset(draft, mapping={HEAD: head, AT: at})
                self._redis.expire(draft, DRAFT)
                rest = iter(entries)
                while batch := dict(islice(rest, BATCH)):
                    self._redis.hset(draft, mapping=batch)
                while True:
                    with self._redis.pipeline() as steps, contextlib.suppress(redis.WatchError):
                        steps.watch(self.name)
                        if int(steps.hget(self.name, AT) or at) > at:
                            return False
                        steps.multi()
                        steps.rename(draft, self.name)
                        steps.persist(self.name)
                        steps.execute()
                        return True
            finally:
                self._redis.delete(draft)

    def read(self, keys: Sequence[str]) -> Found:
        """Read the keys and the head by one command."""
        with self._told():
            head, *values = self._redis.hmget(self.name, HEAD, *keys)
        return Found(head, values)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[Any]:
        redis = need("redis")
        try:
            yield redis
        except (redis.RedisError, ValueError) as error:
            what = f"the online table cannot be used: {redact(str(error).strip())}"
            raise DataError(
                what, where=redact(self.url), fix="see that the server runs and lets this user in"
            ) from None
