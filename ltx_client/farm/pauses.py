"""Pause and resume whole workers and queues, for an operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ltx_client.errors import UsageError
from ltx_client.protocol.changes import messages
from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import Pause, parse_pause, queue_field, worker_field
from ltx_client.protocol.workers import ID_TAIL, WorkerInfo, worker_names
from ltx_client.shared.broker.exchange import Exchange, run_script
from ltx_client.shared.lua.lua_script import load_script
from ltx_client.shared.unexpected_data import ask_or

__all__ = ["Pauses"]

_PAUSE = load_script("ltx_client.farm.ledger", "pause")


class Pauses:
    """The pauses of a farm. Methods raise redis.RedisError; only the admin may write."""

    def __init__(self, names: Names) -> None:
        self._key = names.paused()
        self._channel = names.changes()

    def all(self) -> Exchange[list[Pause]]:
        """Return the current pauses: queues first, then by name."""
        stored = yield from ask_or({}, self._key, "hgetall")
        pauses = [parse_pause(field.decode(errors="replace"), value) for field, value in stored.items()]
        return sorted(pauses, key=lambda pause: (pause.of, pause.name))

    def pause_worker(self, name: str, live: Sequence[WorkerInfo], by: str, at: float) -> Exchange[Pause]:
        """Pause the live worker with that name or id.

        Raises:
            UsageError: There is not exactly one.
        """
        worker_id, its_name = _only(name, live, {}, "no live worker")
        return (yield from self._set(Pause(of="worker", id=worker_id, name=its_name, by=by, at=at)))

    def resume_worker(self, name: str, live: Sequence[WorkerInfo]) -> Exchange[bool]:
        """Unpause the worker with that name or id, alive or not.

        Returns:
            Whether it was paused.

        Raises:
            UsageError: The worker is unknown, or several have the name.
        """
        pauses = yield from self.all()
        paused = {pause.id: pause.name for pause in pauses if pause.of == "worker"}
        worker_id, its_name = _only(name, live, paused, "no worker, live or paused,")
        return (yield from self._remove(worker_field(worker_id), "worker", worker_id, its_name))

    def pause_queue(self, variant: str, by: str, at: float) -> Exchange[Pause]:
        """Pause all jobs of a variant."""
        return (yield from self._set(Pause(of="queue", id=variant, name=variant, by=by, at=at)))

    def resume_queue(self, variant: str) -> Exchange[bool]:
        """Unpause all jobs of a variant.

        Returns:
            Whether they were paused.
        """
        return (yield from self._remove(queue_field(variant), "queue", variant, variant))

    def _set(self, pause: Pause) -> Exchange[Pause]:
        paused = messages.Paused(of=pause.of, id=pause.id, name=pause.name, by=pause.by)
        yield from self._write(pause.field, pause.model_dump_json(), paused)
        return pause

    def _remove(self, field: str, of: str, its_id: str, its_name: str) -> Exchange[bool]:
        unpaused = messages.Unpaused.model_construct(of=of, id=its_id, name=its_name)
        return bool((yield from self._write(field, "", unpaused)))

    def _write(self, field: str, value: str, change: messages.Change) -> Exchange[int]:
        told = {"changes": self._channel, "asked": change.model_dump_json()}
        there: int = yield from run_script(_PAUSE, paused=self._key, field=field, value=value, **told)
        return there


def _only(name: str, live: Sequence[WorkerInfo], paused: Mapping[str, str], nobody: str) -> tuple[str, str]:
    """Return the id and name of the one worker that `name` means.

    Args:
        name: A name, an id or its end, or a name as `ltx workers` shows it.
        live: The live workers.
        paused: Names of paused workers, which need not be alive, by their ids.
        nobody: The beginning of the error for no match.

    Raises:
        UsageError: There is not exactly one.
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
        raise UsageError(f"{len(found)} workers are called {name}; use one of {names}")
    if not found:
        shown = sorted({**known, **worker_names(live)}.values())
        raise UsageError(
            f"{nobody} is called {name}; {'use one of: ' + ', '.join(shown) if shown else 'there are none'}"
        )
    return found[0]
