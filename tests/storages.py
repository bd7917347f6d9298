"""Storages for tests, made as an operator makes them."""

from ltx_client.shared.storage.store import Storage


def made(url):
    """The storage at a URL or in a folder, made if it is none yet."""
    storage = Storage(str(url))
    storage.init()
    return storage
