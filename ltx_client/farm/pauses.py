"""Pauses of whole workers and queues, as an operator sets and ends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ltx_client.errors import UsageError
from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import Pause, parse_pause, queue_field, worker_field
from ltx_client.protocol.workers import ID_TAIL, WorkerInfo, worker_names
from ltx_client.shared.broker.exchange import Exchange, ask
from ltx_client.shared.unexpected_data import ask_or

__all__ = ["Pauses"]


class Pauses:
    """The pauses of a farm. Methods raise redis.RedisError; to write is the admin's."""

    def __init__(self, names: Names) -> None:
        self._key = names.paused()

    def all(self) -> Exchange[list[Pause]]:
        """Those that hold now: of queues first, then by name."""
        stored = yield from ask_or({}, self._key, "hgetall")
        pauses = [parse_pause(field.decode(errors="replace"), value) for field, value in stored.items()]
        return sorted(pauses, key=lambda pause: (pause.of, pause.name))

    def pause_worker(self, name: str, live: Sequence[WorkerInfo], by: str, at: float) -> Exchange[Pause]:
        """Of the live worker of that name or id. Raises UsageError when there is not exactly one."""
        worker_id, its_name = _only(name, live, {}, "no live worker")
        return (yield from self._set(Pause(of="worker", id=worker_id, name=its_name, by=by, at=at)))

    def resume_worker(self, name: str, live: Sequence[WorkerInfo]) -> Exchange[bool]:
        """Whether the worker of that name or id, alive or not, was paused. Raises UsageError for one nobody knows."""
        pauses = yield from self.all()
        paused = {pause.id: pause.name for pause in pauses if pause.of == "worker"}
        worker_id, _ = _only(name, live, paused, "no worker, live or paused,")
        return bool((yield from ask("hdel", self._key, worker_field(worker_id))))

    def pause_queue(self, variant: str, by: str, at: float) -> Exchange[Pause]:
        """Of all jobs of a variant."""
        return (yield from self._set(Pause(of="queue", id=variant, name=variant, by=by, at=at)))

    def resume_queue(self, variant: str) -> Exchange[bool]:
        """Whether it was paused."""
        return bool((yield from ask("hdel", self._key, queue_field(variant))))

    def _set(self, pause: Pause) -> Exchange[Pause]:
        yield from ask("hset", self._key, pause.field, pause.model_dump_json())
        return pause


def _only(name: str, live: Sequence[WorkerInfo], paused: Mapping[str, str], nobody: str) -> tuple[str, str]:
    """The id and name of the worker that `name` means: its name, its id or the end of that, or as `ltx workers` has it.

    paused: names of paused workers, which need not be alive, by their ids.
    """
    known = {**{worker.id: worker.name for worker in live}, **paused}
    whole = {worker_id: f"{its_name} ({worker_id[-ID_TAIL:]})" for worker_id, its_name in known.items()}
    found = [
        (worker_id, its_name)
        for worker_id, its_name in known.items()
        if name in (worker_id, its_name, worker_id[-ID_TAIL:], whole[worker_id])
    ]
    if len(found) > 1:
        names = ", ".join(whole[worker_id] for worker_id, _ in found)
        raise UsageError(f"{len(found)} workers are called {name}; name one as {names}")
    if not found:
        shown = sorted({**known, **worker_names(live)}.values())
        raise UsageError(f"{nobody} is called {name}; there are: {', '.join(shown) or 'none'}")
    return found[0]
