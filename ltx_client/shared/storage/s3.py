"""Configure a storage that is S3, on Amazon or any server that speaks its protocol (the extra `s3`).

botocore finds the server and the account: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and so on.
"""

from __future__ import annotations

from typing import Any

__all__ = ["S3", "s3_errors", "s3_options"]

S3 = ("s3://", "s3a://")


def s3_options() -> dict[str, Any]:
    """Return options for the file system: fail soon, since callers decide whether to wait, and cache no listings."""
    return {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": 5,
            "read_timeout": 30,
            "retries": {"max_attempts": 2},
            "signature_version": "s3v4",  # botocore's default for links is an older version, which most servers refuse
        },
    }


def s3_errors() -> tuple[type[Exception], ...]:
    """Return the errors that it raises besides OSError."""
    try:
        import aiohttp
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:  # else the storage itself could not be opened
        return ()
    return (BotoCoreError, ClientError, aiohttp.ClientError)
