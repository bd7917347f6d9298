"""Download the files of a variant from the hub, into its cache or into LTX_MODELS_DIR.

The hub's own client makes the requests, so that HF_ENDPOINT, HF_HOME, HF_TOKEN, proxies and offline mode mean what they
mean everywhere. This module adds what the client lacks: a download continues where an earlier process was interrupted,
and a file is accepted only when its checksum is the hub's.

Importable without MLX, and without the client, which is imported when it is needed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from ltx_models.errors import CheckpointError, DownloadError, HubUnreachable
from ltx_models.families.variant import Source, Variant
from ltx_models.files.file_kinds import describe_other_model, describe_stand_in, is_lora
from ltx_models.files.file_lock import file_lock
from ltx_models.files.model_files import (
    cache_folder,
    find_part,
    models_folder,
    repository_folders,
    source_files,
)
from ltx_models.files.safetensors_header import read_header
from ltx_models.files.volumes import check_mounted

__all__ = ["download", "verify"]

GB = 10**9
SPARE_BYTES = 500_000_000
"""Disk space that a download leaves free."""
CHECKSUMS = "SHA256SUMS"
"""The file of checksums of what was downloaded into a models folder, in the format of `sha256sum -c`."""
CHUNK = 1 << 20
WAIT_SILENTLY = 2.0
"""Seconds of waiting for another download of the same file before the wait is reported."""

Progress = Callable[[int, int, str], None]
"""A function that is called with the bytes that are on this machine, of all files, their total, and the current file's
name.
"""
Say = Callable[[str], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file of the hub.

    Attributes:
        repository: OWNER/NAME.
        revision: The commit.
        name: The path within the repository.
        size: Bytes.
        checksum: SHA-256 in hexadecimal, or the shorter Git hash of a small file.
    """

    repository: str
    revision: str
    name: str
    size: int
    checksum: str

    @property
    def path(self) -> Path:
        """The path of the complete file."""
        models = models_folder()
        if models:
            return models / self.repository / self.name
        return cache_folder() / f"models--{self.repository.replace('/', '--')}" / "blobs" / self.checksum

    @property
    def part(self) -> Path:
        """The path of the file until it is complete and checked."""
        return self.path.with_name(f".{self.path.name}.part")


def download(variant: Variant, progress: Progress = lambda *_: None, say: Say = lambda _: None) -> None:
    """Download the missing files of a variant, after checking that the disk has room for them.

    Args:
        variant: The variant.
        progress: Called as bytes arrive.
        say: Called with a sentence on each source that is used or passed over.

    Raises:
        DownloadError: The files could not be downloaded; HubUnreachable where the hub does not answer.
    """
    missing = [part.name for part in variant.family.parts if find_part(variant, part.name) is None]
    if not missing:
        return
    with _hub_errors():
        files = []
        for name in missing:
            sources = variant.files[name]
            assert not isinstance(sources, str)  # what is bundled is never missing
            files += _available(sources, name, say)
        total, here = sum(file.size for file in files), sum(_bytes_here(file) for file in files)
        _check_space(files, total - here)
        done = 0
        for file in files:
            already = _bytes_here(file)
            counted = done

            def advance(count: int, name: str = file.name) -> None:
                nonlocal counted
                counted += count
                progress(counted, total, name)

            advance(already)
            _fetch(file, advance, say)
            done += file.size


def _available(sources: tuple[Source, ...], part: str, say: Say) -> list[RemoteFile]:
    """Return the files of the first source that the hub has."""
    reasons = []
    for source in sources:
        try:
            files = _list(source)
        except _NotThere as reason:
            reasons.append(f"{source.repository}: {reason}")
            continue
        passed = f" ({'; '.join(reasons)})" if reasons else ""
        size = sum(file.size for file in files) / GB
        say(f"{part.replace('_', ' ')}: {source.repository}, {size:.2f} GB{passed}")
        return files
    raise DownloadError(f"the {part.replace('_', ' ')} is not on the hub; tried {'; '.join(reasons)}")


class _NotThere(Exception):
    """The hub does not have a source, or not for this user."""


def _list(source: Source) -> list[RemoteFile]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info: Any = HfApi().model_info(source.repository, files_metadata=True)
    except GatedRepoError:
        raise _NotThere("it is gated; request access on its page, and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise _NotThere("no such repository") from None
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    files = []
    for pattern in source.patterns:
        matches = fnmatch.filter(sorted(siblings), pattern)
        if not matches:
            raise _NotThere(f"it holds no {pattern}")
        for name in matches:
            checksum = siblings[name].lfs.sha256 if siblings[name].lfs else siblings[name].blob_id
            files.append(RemoteFile(source.repository, info.sha, name, siblings[name].size, checksum))
    return files


def _bytes_here(file: RemoteFile) -> int:
    for path in (file.path, file.part):
        if path.is_file():
            return min(path.stat().st_size, file.size)
    return 0


def _check_space(files: list[RemoteFile], needed: int) -> None:
    folder = files[0].path.parent
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if needed + SPARE_BYTES > free:
        raise DownloadError(
            f"the download needs {needed / GB:.1f} GB in {models_folder() or cache_folder()}, which has"
            f" {free / GB:.1f} GB free; make room, or point LTX_MODELS_DIR or HF_HOME to a larger disk"
        )


@contextmanager
def _alone(path: Path, name: str, say: Say) -> Iterator[None]:
    """Lock a file that is downloaded, and report a wait: a share's lock may belong to a machine that is gone."""
    lock = file_lock(path)
    try:
        lock.acquire(timeout=WAIT_SILENTLY)
    except Timeout:
        say(f"waiting for another download of {name}; if there is none, remove its lock: rm '{lock.lock_file}'")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(file: RemoteFile, advance: Callable[[int], None], say: Say) -> None:
    """Download one file from where an earlier try ended, check its checksum, and put it in its place."""
    check_mounted(file.path)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file.part.with_suffix(".lock"), file.name, say):
        if not file.path.is_file():
            _receive(file, advance)
            checksum = _checksum(file.part, file.checksum)
            if checksum != file.checksum:
                file.part.unlink()
                raise DownloadError(
                    f"{file.name} of {file.repository} has the checksum {checksum} instead of"
                    f" {file.checksum}; it was deleted; try again"
                )
            file.part.replace(file.path)
            if models_folder():
                _note_checksum(file)
        if not models_folder():
            from huggingface_hub import hf_hub_download

            # The bytes are in the cache: this enters them under their name, where every user of the cache looks.
            hf_hub_download(file.repository, file.name, cache_dir=cache_folder())
    file.part.with_suffix(".lock").unlink(missing_ok=True)


def _receive(file: RemoteFile, advance: Callable[[int], None]) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        """A progress bar that shows nothing itself."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

    with file.part.open("ab") as part:
        if part.tell() > file.size:
            part.truncate(0)
        http_get(
            hf_hub_url(file.repository, file.name, revision=file.revision),
            part,
            resume_size=part.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            tqdm_class=Bar,
        )


def _checksum(path: Path, like: str) -> str:
    """Return a file's SHA-256, or Git's SHA-1 of a blob where `like` is as short as one."""
    git = len(like) == 40
    digest = hashlib.sha1(usedforsecurity=False) if git else hashlib.sha256()
    if git:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _note_checksum(file: RemoteFile) -> None:
    folder = file.path.parents[file.name.count("/")]
    sums = _read_checksums(folder) | {file.name: _checksum(file.path, "")}
    text = "".join(f"{checksum}  {name}\n" for name, checksum in sorted(sums.items()))
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def verify(variant: Variant) -> Iterator[tuple[Path, str]]:
    """Read every downloaded or converted file of a variant, and check it.

    Yields:
        Its path, and what is wrong with it: "" for nothing.
    """
    models = models_folder()
    for each in variant.family.parts:
        sources, part = variant.files[each.name], find_part(variant, each.name)
        if part is not None and models and part.is_relative_to(models / variant.name):
            found = [part] if part.is_file() else sorted(part.glob("*.safetensors"))
            yield from ((path, _verdict(path, None)) for path in found)
        elif part is not None and not isinstance(sources, str):
            yield from _verify_first(sources)


def _verify_first(sources: tuple[Source, ...]) -> Iterator[tuple[Path, str]]:
    for source in sources:
        for folder in repository_folders(source.repository):
            if found := source_files(folder, source):
                expected = _read_checksums(folder)
                yield from ((path, _verdict(path, expected.get(path.relative_to(folder).as_posix()))) for path in found)
                return


def _verdict(path: Path, expected: str | None) -> str:
    if path.is_symlink():
        expected = path.resolve().name  # the cache names blobs by their checksums
    if expected is None or len(expected) not in (40, 64):
        return _header_verdict(path)
    checksum = _checksum(path, expected)
    return "" if checksum == expected else _header_verdict(path) or f"its checksum is {checksum} instead of {expected}"


def _header_verdict(path: Path) -> str:
    if path.suffix != ".safetensors":
        return describe_stand_in(path).replace(" but", "is", 1)
    try:
        header = read_header(path)
    except CheckpointError as error:
        return str(error).removeprefix(f"{path} ")
    return f"is {describe_other_model(header.tensors)}" if is_lora(header.tensors) else ""


@contextmanager
def _hub_errors() -> Iterator[None]:
    """Raise the errors of the hub's client as DownloadError, a sentence each."""
    try:
        import httpx
        from huggingface_hub import constants, get_token
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError:
        raise DownloadError(
            "downloads need the hub's client, which the base install leaves out: pip install 'ltx-farm[worker]'"
        ) from None
    again = "the same command continues where this one stopped"
    if not constants.ENDPOINT.startswith(("http://", "https://")):
        raise DownloadError(
            "HF_ENDPOINT is invalid: it must begin with http:// or https://, as in https://huggingface.co"
        )
    if not (get_token() or "").isascii():
        raise DownloadError(
            "the hub's token (HF_TOKEN, or what hf auth login has stored) is invalid: it has characters that are"
            " not ASCII, such as typographic quotation marks; copy it again"
        )
    try:
        httpx.Client().close()  # which reads the environment's proxies, as the hub's own does
    except ImportError:
        raise DownloadError(
            "the environment names a SOCKS proxy (ALL_PROXY or the like), which needs one more package:"
            " pip install socksio; or unset it, or name an http:// proxy"
        ) from None
    except (ValueError, httpx.InvalidURL):
        raise DownloadError(
            "the proxy in the environment (ALL_PROXY, HTTPS_PROXY or the like) is invalid; use http://HOST:PORT or"
            " socks5://HOST:PORT"
        ) from None
    try:
        yield
    except OfflineModeIsEnabled:
        raise HubUnreachable(
            "HF_HUB_OFFLINE is set, and not all files are in the cache; unset it to download"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise HubUnreachable(f"{constants.ENDPOINT} answered with status {status}; {again}") from error
    except (httpx.HTTPError, LocalEntryNotFoundError) as error:
        raise HubUnreachable(f"{constants.ENDPOINT} does not answer ({error}); {again}") from error
    except OSError as error:
        raise DownloadError(f"the download was interrupted: {error}; {again}") from error
