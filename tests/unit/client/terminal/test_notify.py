"""Test webhooks, against a real HTTP server: signed, retried, never the reason that a command fails."""

import base64
import hashlib
import hmac
import http.server
import json
import threading

import pytest

from ltx_client.errors import UsageError
from ltx_client.farm.jobs.views import JobView
from ltx_client.protocol import events
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.state import Snapshot, apply
from ltx_client.terminal import notify
from ltx_client.terminal.end_notifications import EndNotifications

SECRET = "s3cret"


@pytest.fixture
def receiver(monkeypatch):
    """Return a server, its requests, and its answers; the last answer is repeated."""
    got, answers = [], [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers, body))
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setattr(notify, "WAIT", 0.01)
    monkeypatch.delenv("LTX_NOTIFY_SECRET", raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook?token=hidden", got, answers
        server.shutdown()


@pytest.fixture
def views(make_job):
    states = [apply(Snapshot(), events.Cancelled()), apply(Snapshot(), events.Failed(error="too dark"))]
    relations = Relations(batch="night", item=1)
    return [JobView(make_job(), 0, state, cancel_asked=False, leased=False, relations=relations) for state in states]


def test_a_signed_webhook(receiver, views, monkeypatch):
    url, got, _ = receiver
    monkeypatch.setenv("LTX_NOTIFY_SECRET", SECRET)
    assert notify.send_webhook(url, views) is None
    ((path, headers, body),) = got
    assert path == "/hook?token=hidden"
    signed = headers["X-LTX-Timestamp"].encode() + b"." + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-LTX-Signature"] == f"sha256={digest}"
    told = json.loads(body)
    assert (told["event"], told["batch"], told["summary"]) == ("ended", "night", "2 jobs: 1 failed, 1 cancelled")
    assert [(job["status"], job["error"]) for job in told["jobs"]] == [("cancelled", None), ("failed", "too dark")]
    assert SECRET not in body.decode()


def test_a_secret_in_a_file_and_none(receiver, views, monkeypatch, tmp_path):
    url, got, _ = receiver
    assert notify.send_webhook(url, views[:1]) is None
    assert "X-LTX-Signature" not in got[0][1]
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("LTX_NOTIFY_SECRET_FILE", str(tmp_path / "secret"))
    assert notify.secret() == SECRET.encode()
    monkeypatch.setenv("LTX_NOTIFY_SECRET_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="cannot read LTX_NOTIFY_SECRET_FILE"):
        EndNotifications(url, None)


@pytest.mark.parametrize(
    ("answering", "tries", "arrives"),
    [([500, 503, 200], 3, True), ([500], 3, False), ([404], 1, False), ([302], 3, False)],
)
def test_what_is_tried_again(receiver, views, capsys, answering, tries, arrives):
    url, got, answers = receiver
    answers[:] = answering
    EndNotifications(url, desktop=False).tell(views)
    said = capsys.readouterr().err
    assert len(got) == tries
    assert (said == "") == arrives
    assert "hidden" not in said
    if not arrives:
        assert f"the webhook at 127.0.0.1 was not delivered: it answered {answering[0]}" in said


def test_nobody_there(views, monkeypatch):
    monkeypatch.setattr(notify, "WAIT", 0.01)
    assert "Connection refused" in notify.send_webhook("http://127.0.0.1:1/hidden", views)


NO_HOOKS = {
    "ftp://x": "has another scheme, or none",
    "file:///etc/passwd": "has another scheme",
    "x": "has another scheme",
    "hooks.example/x": "has another scheme",
    "http://": "names no host",
    "http:///x": "names no host",
    "http://x:hidden@/": "names no host",
    "http://x:99999": "has an invalid port",
    "http://x:0": "has an invalid port",
    "http://x:hidden/1@y": "has an invalid port; write / \\? # @ of a password as %2F",
    "http://a..b/": "has an invalid host",
    f"http://{'a' * 64}.example/": "has an invalid host",
    "http://a b/": "has an invalid host",
    "http://[::1/": "cannot be parsed",
    "http://[x]/": "cannot be",
    " http://x": "has a blank, a line break",
    "http://x/\n": "has a blank, a line break",
    "http://x:hidden\u202e@y/": "has a blank, a line break or another control character",
}


@pytest.mark.parametrize("url", NO_HOOKS)
def test_what_is_no_webhook(url):
    with pytest.raises(UsageError, match=f"takes an http:// or https:// URL; this one {NO_HOOKS[url]}") as raised:
        EndNotifications(url, None)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/später/ß?x=ä&y=1 2", "/sp%C3%A4ter/%C3%9F?x=%C3%A4&y=1%202"),
        ("/a%20b/%C3%A4?z=%26#top", "/a%20b/%C3%A4?z=%26"),
        ("?x=1", "/?x=1"),
        ("/@me/[1]|^", "/@me/%5B1%5D%7C%5E"),
    ],
)
def test_a_url_with_letters_that_http_does_not_take(receiver, views, path, sent):
    url, got, _ = receiver
    assert notify.send_webhook(url.partition("/hook")[0] + path, views) is None
    assert got[0][0] == sent


@pytest.mark.parametrize(
    ("account", "basic"),
    [("ann:p%40ss%2Fwörd", "ann:p@ss/wörd"), ("ann", "ann:"), (":s3cretword", ":s3cretword"), ("a:b:c@d", "a:b:c@d")],
)
def test_an_account_is_sent_in_a_header_and_never_shown(receiver, views, capsys, account, basic):
    url, got, answers = receiver
    with_account = url.replace("127.0.0.1", f"{account}@127.0.0.1")
    assert notify.send_webhook(with_account, views) is None
    assert got[0][1]["Authorization"] == f"Basic {base64.b64encode(basic.encode()).decode()}"
    assert "@" not in got[0][1]["Host"]
    answers[:] = [404]
    EndNotifications(with_account, desktop=False).tell(views)
    said = capsys.readouterr().err
    assert "the webhook at 127.0.0.1 was not delivered: it answered 404" in said
    assert account not in said and basic not in said


def test_a_host_with_letters_of_its_own_is_asked_for_by_its_name_in_ascii():
    assert notify._as_sent("https://Fürst.example:8443/x") == ("https://xn--frst-0ra.example:8443/x", {})
    assert notify._as_sent("http://[::1]:80/x") == ("http://[::1]:80/x", {})


PROXIES = [
    "socks5://127.0.0.1:1",
    "socks5h://ann:hidden@proxy:1",
    "http://ann:hidden@127.0.0.1:port",
    "://",
    "http://a..b",
]


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_that_is_none_for_http(views, monkeypatch, proxy):
    monkeypatch.setattr(notify, "WAIT", 0.01)
    monkeypatch.setenv("http_proxy", proxy)
    said = notify.send_webhook("http://hooks.example/x", views)
    assert said.startswith("the webhook at hooks.example was not delivered: the environment names a proxy")
    assert "hidden" not in said
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("ALL_PROXY", proxy)  # which is for others than HTTP, as urllib has it
    assert "Connection refused" in notify.send_webhook("http://127.0.0.1:1/x", views)


def test_a_proxy_that_does_not_answer_is_named(views, monkeypatch):
    """Otherwise one would search for the fault in the webhook."""
    monkeypatch.setattr(notify, "WAIT", 0.01)
    monkeypatch.setenv("http_proxy", "http://ann:hidden@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "localhost")
    said = notify.send_webhook("http://hooks.example/x", views)
    assert said.endswith("Connection refused, through the proxy that the environment names")
    assert notify.send_webhook("http://localhost:1/x", views).endswith("Connection refused")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_desktop_gets_the_text_as_a_word_of_its_own(monkeypatch, tmp_path, platform):
    ran = []

    def run(command, **_):
        ran.append(command)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(notify.sys, "platform", platform)
    monkeypatch.setattr(notify.subprocess, "run", run)
    monkeypatch.setattr(notify.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("DISPLAY", ":0")
    text = 'job "x" & co is done; `rm`'
    assert notify.show_on_desktop(text)
    word = text.replace("&", "&amp;") if platform == "linux" else text  # notify-send reads markup
    assert word in ran[0]
    assert not any(word in other for other in ran[0] if other != word)


def test_a_desktop_that_is_not_there(monkeypatch):
    monkeypatch.setattr(notify.sys, "platform", "linux")
    monkeypatch.setattr(notify.shutil, "which", lambda name: None)
    assert not notify.show_on_desktop("x")
