"""The ledger's scripts, which are the files in `lua/`; what each guarantees stands there.

Scripts answer with a word; `stale` and `gap` are refusals.
"""

from __future__ import annotations

from ltx_client.shared.lua.lua_script import load_script

__all__ = [
    "BEAT",
    "DROP_EXPIRED",
    "ENTER_LINES",
    "FIND_EMBEDDINGS",
    "FIND_LEASED",
    "FIND_PRESENT",
    "LEAVE",
    "NEXT",
    "READ_SNAPSHOTS",
    "READ_WISHES",
    "SCRIPTS",
    "STORE_EMBEDDING",
]

_HERE = "ltx_worker.ledger"

SCRIPTS = {
    name: load_script(_HERE, f"attempt/{name}")
    for name in ("claim", "renew", "emit", "save", "commit", "release", "requeue")
}
"""Those of one attempt's life."""

NEXT = load_script(_HERE, "queue/next")
ENTER_LINES = load_script(_HERE, "queue/enter_lines")
DROP_EXPIRED = load_script(_HERE, "queue/drop_expired")
READ_SNAPSHOTS = load_script(_HERE, "queue/read_snapshots")
READ_WISHES = load_script(_HERE, "queue/read_wishes")
FIND_PRESENT = load_script(_HERE, "queue/find_present")
FIND_LEASED = load_script(_HERE, "queue/find_leased")
BEAT = load_script(_HERE, "workers/beat")
LEAVE = load_script(_HERE, "workers/leave")
FIND_EMBEDDINGS = load_script(_HERE, "embeddings/find_embeddings")
STORE_EMBEDDING = load_script(_HERE, "embeddings/store_embedding")
