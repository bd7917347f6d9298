"""Load the ledger's scripts, the files in `lua/`, whose heads say what each guarantees.

A script answers with a word; `stale` and `gap` are refusals.
"""

from __future__ import annotations

from ltx_client.shared.lua.lua_script import load_script

__all__ = [
    "BEAT",
    "DROP_EXPIRED",
    "DROP_LAPSED",
    "ENTER_LINES",
    "FIND_EMBEDDINGS",
    "FIND_LEASED",
    "FIND_PRESENT",
    "LEAVE",
    "NEXT",
    "READ_CHANGES",
    "READ_SNAPSHOTS",
    "SCRIPTS",
    "STORE_EMBEDDING",
]

_HERE = "ltx_worker.ledger"

SCRIPTS = {
    name: load_script(_HERE, f"attempt/{name}")
    for name in ("claim", "renew", "emit", "save", "commit", "release", "requeue")
}
"""The scripts of one attempt's life, by name."""

NEXT = load_script(_HERE, "queue/next")
ENTER_LINES = load_script(_HERE, "queue/enter_lines")
DROP_EXPIRED = load_script(_HERE, "queue/drop_expired")
READ_SNAPSHOTS = load_script(_HERE, "queue/read_snapshots")
READ_CHANGES = load_script(_HERE, "queue/read_changes")
FIND_PRESENT = load_script(_HERE, "queue/find_present")
FIND_LEASED = load_script(_HERE, "queue/find_leased")
BEAT = load_script(_HERE, "workers/beat")
LEAVE = load_script(_HERE, "workers/leave")
DROP_LAPSED = load_script(_HERE, "workers/drop_lapsed")
FIND_EMBEDDINGS = load_script(_HERE, "embeddings/find_embeddings")
STORE_EMBEDDING = load_script(_HERE, "embeddings/store_embedding")
