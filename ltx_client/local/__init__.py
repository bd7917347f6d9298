"""The embedded farm: a private Valkey server and one worker, for one machine with no broker configured.

A keeper process owns both. Who uses the farm holds a lock on a member file for as long as it does, so the
keeper knows without being told: it starts a worker when somebody wants to render, and stops everything
when the last member is gone, even one that was killed. A keeper that is killed takes both with it: a guard
process stops the server, once the worker has given its job back.

    members.py      who uses the farm             keeper.py       the process that owns server and worker
    server.py       starts Valkey                 join.py         how a command becomes a member
    address.py      where the server is           server_lock.py  says whether one runs, as long as it does
    inspection.py   is it what it was told to be  orphans.py      stops one whose keeper was killed
    background.py   hands the farm to `ltx up`
"""
