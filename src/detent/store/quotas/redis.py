"""Shared counters in Redis (or Valkey): one Lua script, which Redis runs undisturbed.

The script does what `kernel.quotas.exchange` does, on the server's clock in microseconds; one contract suite holds
both. Keys of a project share a hash tag, so a cluster keeps them together. Budgets outlive a restart of Redis only if
it keeps its data (`appendonly yes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import msgspec

from detent.kernel.clock import Clock
from detent.kernel.errors import MissingExtra, StorageFailed
from detent.kernel.quotas import BUCKETS, GRAIN, LEASE, Level, Move, Share

if TYPE_CHECKING:
    import redis

_MICRO: Final = 1000
_SECONDS: Final = 0.5
_REPLY_MS: Final = 600_000


class RedisQuotas:
    """The port `Quotas` for gateways that share a Redis. Connects when it is first used.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        clock: in place of the server's, for tests.

    Raises:
        MissingExtra: the client library is not installed.
    """

    remote = True

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise MissingExtra(
                "Counters in Redis need its client library.", hint="Install it: pip install 'detent[redis]'"
            ) from None
        self._errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self._clock = clock
        self._client: redis.Redis = redis.Redis.from_url(
            url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, retry=Retry(NoBackoff(), 0)
        )
        script = files("detent.store.quotas").joinpath("exchange.lua").read_text()
        self._exchange = self._client.register_script(script)
        script = files("detent.store.quotas").joinpath("levels.lua").read_text()
        self._levels = self._client.register_script(script)

    def exchange(self, moves: Sequence[Move], *, ticket: str = "") -> tuple[Share, ...]:
        prefix = _prefix(moves[0].counter.project)
        keys = [prefix + "i", prefix + "t:" + ticket, *(prefix + "c:" + move.counter.key for move in moves)]
        rows = self._run(self._exchange, keys, [self._now(), _REPLY_MS if ticket else 0, *_CONSTANTS, _pack(moves)])
        return tuple(
            Share(bool(granted), bool(fits), held, lease, at, used, free, wait if wait < 0 else wait * _MICRO)
            for granted, fits, held, lease, at, used, free, wait in rows
        )

    def levels(self, project: str) -> tuple[Level, ...]:
        prefix = _prefix(project)
        rows = self._run(self._levels, [prefix + "i"], [self._now(), *_CONSTANTS, prefix + "c:"])
        return tuple(Level(key.decode(), used, held) for key, used, held in rows)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        self._client.close()

    def _now(self) -> int:
        return self._clock.monotonic() // _MICRO if self._clock is not None else -1

    def _run(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        try:
            return script(keys=keys, args=arguments)
        except self._errors as error:
            raise StorageFailed(
                f"The shared counters in Redis cannot be reached: {' '.join(str(error).split())[:200]}.",
                hint="Check the server and gateway.quotas_url.",
            ) from None


_CONSTANTS: Final = (GRAIN // _MICRO, LEASE // GRAIN, BUCKETS)


def _prefix(project: str) -> str:
    return f"detent:{{{project}}}:"


def _pack(moves: Sequence[Move]) -> bytes:
    return msgspec.msgpack.encode(
        [
            (
                move.counter.limit,
                move.counter.window // _MICRO,
                move.counter.until // 1_000_000,
                move.counter.hard,
                move.spent,
                move.back_at,
                move.had,
                move.lease,
                move.keep,
                move.ask,
                move.charge,
                move.spare,
                move.back,
            )
            for move in moves
        ]
    )


def open_quotas(url: str) -> RedisQuotas:
    """For the entry-point group `detent.quotas`."""
    return RedisQuotas(url)
