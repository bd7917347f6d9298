"""What a render leaves on its machine goes, if not at once."""

import resource

from ltx_worker.attempt.work_folders import WorkFolders
from ltx_worker.queue.orphans import Orphans


def test_a_folder_goes_with_its_attempt_and_nothing_else(tmp_path):
    (tmp_path / "work" / "of-another-life").mkdir(parents=True)
    work = WorkFolders(tmp_path / "work")
    assert list(work.path.iterdir()) == []
    with work.of("a.1.b") as folder, work.of("c.1.d") as other:
        (folder / "video.mp4").touch()
        work.tidy()
        assert {path.name[:5] for path in work.path.iterdir()} == {"a.1.b", "c.1.d"}
        assert folder.is_dir() and other.is_dir()
    assert list(work.path.iterdir()) == []


def test_what_could_not_be_removed_is_removed_later(tmp_path):
    """As where no file could be opened, nor a folder be listed."""
    work = WorkFolders(tmp_path / "work")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with work.of("a.1.b") as folder:
        (folder / "video.mp4").touch()
        with tmp_path.joinpath("held").open("w") as file:
            lowest = file.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        assert folder.exists()
        orphans = Orphans(None, None, lambda: False, every=0.01, tidy=work.tidy)
        orphans._cycle()
        assert folder.exists()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    orphans._cycle()
    assert list(work.path.iterdir()) == []
