"""Provide a server that speaks S3, on a loopback port, and the environment of its users."""

import contextlib
import logging
import uuid

import fsspec
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "farm", "AWS_SECRET_ACCESS_KEY": "the-storage-key", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server():
    """Yield the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # those of an earlier server, by its address
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        server.stop()


def new_bucket(environment):
    """Return the URL of a folder in a new bucket."""
    bucket = f"farm-{uuid.uuid4().hex}"
    fs = fsspec.filesystem("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
    fs.mkdir(bucket)
    return f"s3://{bucket}/videos"
