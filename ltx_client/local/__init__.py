"""Run the embedded farm: a private Valkey server and one worker, for one machine with no broker configured.

A keeper process owns both. Each process that uses the farm locks a member file while it does, so the keeper needs no
message from it: it starts a worker when somebody wants to render, and stops everything when the last member is gone,
even a killed one. A killed keeper takes both with it: a guard process stops the server after the worker has requeued
its job.

    members.py      who uses the farm             keeper.py       the process that owns server and worker
    server.py       starts Valkey                 join.py         how a command becomes a member
    address.py      where the server is           server_lock.py  says whether one runs, as long as it does
    inspection.py   checks a server's settings    orphans.py      stops one whose keeper was killed
    background.py   hands the farm to `ltx up`
"""
