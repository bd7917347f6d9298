"""Test what is shown of URLs, and of texts with secrets in them."""

import json
import logging
import os
import subprocess
import sys
from urllib.parse import quote, quote_plus

import click
import pytest

from ltx_client.cli import main
from ltx_client.protocol.redaction import hide_environment_secrets, hide_secret, hide_url_secrets, redacted, shown_url
from ltx_client.shared.console.stdio import LineFormatter
from ltx_worker.cli import main as worker_main

SECRET = "hush-7f3c"
URLS = {
    "redis://ann:{}@h:1/0": "redis://ann:***@h:1/0",
    "redis://:{}@h:1/0": "redis://:***@h:1/0",
    "rediss://h:1/0?password={}&username=ann": "rediss://h:1/0?***",
    "unix:///run/redis.sock?password={}": "unix:///run/redis.sock?***",
    "unix://ann:{}@/run/redis.sock": "unix://ann:***@/run/redis.sock",
    "s3://KEY:{}@bucket/videos": "s3://***@bucket/videos",
    "s3://{}@bucket": "s3://***@bucket",
    "https://{}@host/x": "https://***@host/x",
    "https://host/x?token={}": "https://host/x?***",
    "https://host/x#{}": "https://host/x#***",
    "https://host/x?X-Amz-Credential=k&X-Amz-Signature={}": "https://host/x?***",
    "simplecache::s3://KEY:{}@bucket/x": "simplecache::s3://***@bucket/x",
    "zip://a.zip::https://ann:{}@host/x?token={}": "zip://a.zip::https://***@host/x?***",
    "filecache::zip://a.zip::ftp://ann:{}@[::1]:21/x": "filecache::zip://a.zip::ftp://ann:***@[::1]:21/x",
    "redis://:1#{}@h:1/0": "redis://***",
    "redis://ann:12/{}@h:1/0": "redis://***",
    "redis://ann:12?{}@h:1/0": "redis://***",
    "redis://ann:12@{}@h:1/0": "redis://ann:***@h:1/0",
    "redis://ann:1[{}@h:1/0": "redis://ann:***@h:1/0",
    "redis://[::1:{}": "redis://***",
    "redis://ann:{}": "redis://***",
    "https://host/a@b?c={}": "https://***",
    "ann:{}@host:6379": "***@host:6379",
}

NOT_TAKEN_APART = {
    "redis://[::1:{}",
    "redis://ann:{}",
    "ann:{}@host:6379",
    "https://host/x#{}",
    "https://host/a@b?c={}",
}
"""What of these is secret, nobody can tell; nothing of them is shown."""


@pytest.mark.parametrize("url", URLS)
def test_what_is_shown_of_a_url(url):
    assert shown_url(url.replace("{}", SECRET)) == URLS[url]


@pytest.mark.parametrize(
    "text", ["cannot open {}: no", "{}", "({})", "{'url': '{}', 'n': 1}", 'at "{}"', "a={}.", "{}\n{}"]
)
@pytest.mark.parametrize("url", [url for url in URLS if "://" in url])
def test_a_url_in_a_text_that_somebody_else_wrote(url, text):
    shown = redacted(text.replace("{}", url.replace("{}", SECRET)))
    assert SECRET not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/videos",
        "redis://ann@host:6379/0",
        "https://videos.studio/mac-1 or http://mac-1.local:9106",
        "file:///Volumes/farm",
        "/Volumes/farm/a@b.mp4",
        "[::1]:6379",
        "a red ball, steps=8, num_tokens=16: done",
        "",
    ],
)
def test_what_holds_no_secret_is_shown_as_it_is(text):
    assert redacted(text.replace("num_tokens", "length")) == text.replace("num_tokens", "length")


@pytest.mark.parametrize(
    "secret", ["hush-7f3c", "pa#s/s?w@o[r]d:1", "with space & é", "quo\"te\\s's", "100%25sure", "a\udcff\ud83db"]
)
def test_a_known_secret_is_found_however_it_is_written(secret):
    hide_secret(secret)
    written = secret.encode(errors="backslashreplace")
    quoted = (quote(written), quote(written, safe=""), quote_plus(written))
    for form in (secret, *quoted, json.dumps(secret), repr(secret)):
        shown = redacted(f"before {form} after")
        assert form.strip("\"'") not in shown
        assert shown.startswith("before ") and shown.endswith(" after")


@pytest.mark.parametrize("url", [url for url in URLS if url not in NOT_TAKEN_APART])
def test_what_a_url_of_this_process_holds_is_hidden_wherever_a_library_repeats_it(url):
    hide_url_secrets(url.replace("{}", SECRET))
    assert redacted(f"WRONG {SECRET}!") == "WRONG ***!"


def test_a_short_secret_is_hidden_as_a_word_and_no_common_word_is_one():
    hide_secret("pw-1")
    hide_secret("a")
    hide_secret("true")
    assert redacted("pw-1 is not pw-12, which is true") == "*** is not pw-12, which is true"


def test_the_environment_is_searched_by_names_and_urls():
    hide_environment_secrets(
        {
            "AWS_SECRET_ACCESS_KEY": "key-of-aws",
            "LTX_NOTIFY_SECRET": "key-of-notify",
            "HF_TOKEN": "key-of-hf",
            "https_proxy": "http://me:key-of-proxy@proxy:1",
            "LTX_BROKER_PASSWORD_FILE": "/etc/a-file",
            "LTX_BROKER_PASSWORD_KEYRING": "true",
            "TOKENIZERS_PARALLELISM": "enabled",
            "HOME": "/home/somebody",
        }
    )
    text = "key-of-aws key-of-notify key-of-hf key-of-proxy"
    assert redacted(text) == "*** *** *** ***"
    text = "/etc/a-file true enabled /home/somebody"
    assert redacted(text) == text


def test_a_webhook_is_a_secret_from_its_host_on():
    url = "https://hooks.example/services/T1/B2/x9y8z7w6v5"
    hide_url_secrets(url, path=True)
    assert shown_url(url, path=False) == "https://hooks.example/***"
    assert "x9y8z7w6v5" not in redacted("POST /services/T1/B2/x9y8z7w6v5: 404; /x9y8z7w6v5")


@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "{'authorization': 'Basic {}'}", "AUTHORIZATION={}"])
def test_headers(header):
    assert SECRET not in redacted(header.replace("{}", SECRET))


def _commands(group, path=()):
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, (*path, name))


@pytest.mark.parametrize("program", [main, worker_main])
def test_what_help_says_of_urls_is_not_taken_for_one_with_a_secret(program):
    for path, command in _commands(program):
        text = command.get_help(click.Context(command, info_name=" ".join(path)))
        assert redacted(text) == text


def test_a_log_has_a_line_for_a_record_and_no_secret():
    hide_secret(SECRET)
    try:
        raise ValueError(f"{SECRET} at s3://k:other@b\nFORGED")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "job %s\n%s \x1b[31m", (SECRET, "FORGED"), info)
    message, *trace = LineFormatter("%(levelname)s %(message)s").format(record).split(os.linesep)
    assert message == "ERROR job *** FORGED �[31m"
    assert all(line.startswith("    ") for line in trace)
    assert SECRET not in "".join(trace) and "other" not in "".join(trace)


def test_the_traceback_that_ends_a_program_is_cleaned():
    code = (
        "from ltx_client.shared.console.stdio import guarded\n"
        f"with guarded(): raise ValueError('\\x1b]0;x\\x07 at s3://KEY:{SECRET}@bucket')"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert died.returncode == 1
    assert "ValueError: �]0;x� at s3://***@bucket" in died.stderr
    assert "Traceback" in died.stderr and SECRET not in died.stderr.splitlines()[-1]
