"""The embedded farm: a private Valkey server and one worker, for one machine with no broker configured.

A keeper process owns both. Who uses the farm holds a lock on a member file for as long as it does, so the
keeper knows without being told: it starts a worker when somebody wants to render, and stops everything
when the last member is gone, even one that was killed.

    members.py   who uses the farm       keeper.py   the process that owns server and worker
    server.py    Valkey                  join.py     how a command becomes a member
"""
