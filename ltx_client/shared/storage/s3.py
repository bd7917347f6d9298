"""What differs where the storage is S3, on Amazon or any server that speaks its protocol (the extra `s3`).

Where it is and who we are is botocore's to find: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and so on.
"""

from __future__ import annotations

from typing import Any

__all__ = ["S3", "s3_errors", "s3_options"]

S3 = ("s3://", "s3a://")


def s3_options() -> dict[str, Any]:
    """For the file system: give up soon, for who calls decides whether to wait; ask each time what there is."""
    return {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": 5,
            "read_timeout": 30,
            "retries": {"max_attempts": 2},
            "signature_version": "s3v4",  # the older one, botocore's default for links, is refused by most servers
        },
    }


def s3_errors() -> tuple[type[Exception], ...]:
    """What it raises beside OSError."""
    try:
        import aiohttp
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:  # the storage itself could not be opened then
        return ()
    return (BotoCoreError, ClientError, aiohttp.ClientError)
