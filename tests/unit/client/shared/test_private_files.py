"""Test keys that are drawn once: whole, readable by the owner only, and replaced if they are invalid."""

import os
import stat

import pytest

from ltx_client.errors import UsageError
from ltx_client.local.address import Address
from ltx_client.shared.private_files import drawn_once, replace_file, write_private
from ltx_client.terminal.notify import secret
from ltx_worker.http.files import link_key
from ltx_worker.settings import WorkerSettings, machine_id

NO_KEYS = {
    "empty": b"",
    "blank": b" \n\n",
    "short": b"abc\n",
    "cut": b"0123456789abcdef0123456789abcde",
    "zeros": bytes(64),
    "binary": bytes(range(256)),
    "long": b"a" * 10**6,
    "two lines": b"0" * 64 + b"\n" + b"1" * 64,
    "a path": b"../../etc/passwd-and-more-of-it-so-that-it-is-long-enough-for-it\n",
    "a key of another kind": b"ltx:worker:0123456789\n",
}


def of_links(home):
    return link_key(home).decode()


def of_machine(home):
    return machine_id(WorkerSettings(home=home))


READ = {"link-key": of_links, "machine-id": of_machine}


CASES = [(name, kind) for name in READ for kind in NO_KEYS if (name, kind) != ("machine-id", "cut")]
"""All but one: a machine's id that is cut off is as good as any other."""


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_is_no_key_is_made_anew(tmp_path, name, kind):
    path, read = tmp_path / name, READ[name]
    path.write_bytes(NO_KEYS[kind])
    drawn = read(tmp_path)
    assert len(drawn) >= 32
    assert drawn.isalnum()
    assert read(tmp_path) == drawn
    assert path.read_text() == drawn
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "read"), [("link-key", of_links), ("machine-id", of_machine)])
def test_a_key_is_kept_and_closed_to_others(tmp_path, name, read):
    path = tmp_path / name
    path.write_text("0123456789abcdef" * 4 + "\n")
    path.chmod(0o644)
    assert read(tmp_path) == "0123456789abcdef" * 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_cannot_be_read_for_now_is_left(tmp_path):
    path = tmp_path / "key"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        drawn_once(path, ".*", str)
    assert path.is_dir()


def test_a_private_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, flush = [], os.fsync
    path = tmp_path / "key"
    path.write_text("before")
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(path.read_text()), flush(handle)))
    write_private(path, "after")
    assert done == ["before", "after"]

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, "never")
    assert path.read_text() == "after"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_file_is_made_ready_before_it_has_its_name_and_replaces_a_link_itself(tmp_path):
    path, seen = tmp_path / "unit", []
    path.symlink_to("elsewhere")
    replace_file(path, "é", 0o644, lambda new: seen.append((path.is_symlink(), stat.S_IMODE(new.stat().st_mode))))
    assert seen == [(True, 0o644)]
    assert not path.is_symlink() and path.read_bytes() == "é".encode()

    def fail(_new):
        raise ValueError("no such user")

    with pytest.raises(ValueError, match="no such user"):
        replace_file(path, "never", 0o644, fail)
    assert path.read_text(encoding="utf-8") == "é"
    assert [entry.name for entry in tmp_path.iterdir()] == ["unit"]


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_mode_holds_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "unit", "x", 0o644)
        Address(6379, "hush").write(tmp_path / "server.json")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("unit", "server.json")] == [0o644, 0o600]
    assert Address.read(tmp_path / "server.json") == Address(6379, "hush")


def test_an_empty_secret_signs_nothing_in_silence(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_text("\n")
    monkeypatch.delenv("LTX_NOTIFY_SECRET", raising=False)
    monkeypatch.setenv("LTX_NOTIFY_SECRET_FILE", str(path))
    with pytest.raises(UsageError, match="is empty"):
        secret()


def test_a_private_file_is_written_through_links_and_over_no_device(tmp_path):
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles/key").write_text("before")
    for name, target in (("key", "dotfiles/key"), ("new", "dotfiles/new"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
    for name in ("key", "new"):
        write_private(tmp_path / name, "after")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "dotfiles" / name).read_text() == "after"
        assert stat.S_IMODE((tmp_path / "dotfiles" / name).stat().st_mode) == 0o600
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("pipe", "is not a file"), ("dotfiles", "is not a file"), ("loop", "symbolic links")):
        before = (tmp_path / name).lstat()
        with pytest.raises(OSError, match=why):
            write_private(tmp_path / name, "never")
        assert (tmp_path / name).lstat().st_mode == before.st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dotfiles", "key", "loop", "new", "pipe"]
