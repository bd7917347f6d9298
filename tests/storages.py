"""Make storages for tests, as an operator does."""

from ltx_client.shared.storage.store import Storage


def made(url):
    """Return the storage at a URL or in a folder, made if it is none yet."""
    storage = Storage(str(url))
    storage.init()
    return storage
