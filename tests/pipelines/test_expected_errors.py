"""What a disk, a folder or a worker refuses is told in one line: path, cause, cure; exit 1 or 2."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from digests import tree_digest
from tiny_run import run_tiny

from pipelines import cli
from pipelines.cli_options import MAX_ROWS, numbers_of, rows_of
from schemas import atomic, fingerprint
from schemas.errors import (
    CheckpointError,
    DataError,
    FileSystemError,
    LatentflowError,
    StoreError,
    UsageError,
)
from schemas.expected_errors import expected
from schemas.fingerprint import ContentHashCache, file_sha256
from schemas.store.latent_store import LatentStore


def refused(number: int, path: str | None = "/data/out/zarr.json") -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO"])
def test_what_a_disk_refuses_names_path_cause_and_cure(number):
    told = expected(refused(getattr(errno, number)))
    assert isinstance(told, FileSystemError) and told.exit_code == 1
    cause = os.strerror(getattr(errno, number)).lower()
    assert str(told).startswith(f"'/data/out/zarr.json' cannot be used: {cause}; ")
    assert len(str(told).split("; ")[1]) > 20


@pytest.mark.parametrize("number", ["ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP"])
def test_a_wrong_path_is_a_wrong_argument(number):
    told = expected(refused(getattr(errno, number), "a" * 300))
    assert isinstance(told, UsageError) and told.exit_code == 2


def test_names_of_half_written_files_are_told_as_people_know_them():
    told = expected(refused(errno.EROFS, f"/out/run.lock.{'0f' * 16}.partial"))
    assert "'/out/run.lock' cannot" in str(told)


@pytest.mark.parametrize(
    "text",
    ["disk I/O error", "database or disk is full", "attempt to write a readonly database",
     "unable to open database file"],
)  # fmt: skip
def test_what_a_database_says_of_its_disk(text):
    assert isinstance(expected(sqlite3.OperationalError(text)), FileSystemError)


BEAM = """Traceback (most recent call last):
  File "worker.py", line 1, in process
schemas.errors.StoreError: array 'latents/w' is damaged: checksum; run again

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "worker.py", line 2, in process
{last} [while running 'Sum/Accumulate/ParDo(AccumulateBlocks)']
"""


@pytest.mark.parametrize(
    ("last", "kind", "text"),
    [
        ("schemas.errors.DataError: column 'x' is empty: give rows", DataError, "give rows"),
        ("OSError: [Errno 28] No space left on device: '/tmp/a b/0.npz'", FileSystemError,
         "'/tmp/a b/0.npz' cannot be used: no space left"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", FileSystemError, "'/x' cannot"),
        ("OSError: [Errno 122] Disk quota exceeded", FileSystemError, "a file cannot be used"),
        ("ValueError: nobody expects this", StoreError, "'latents/w' is damaged"),
    ],
)  # fmt: skip
def test_the_error_behind_a_workers_text(last, kind, text):
    told = expected(RuntimeError(BEAM.format(last=last)))
    assert type(told) is kind and text in str(told) and "while running" not in str(told)


def test_the_error_behind_another_one():
    class Remote(Exception):  # as Ray's
        def __init__(self, cause: Exception) -> None:
            super().__init__("a long text")
            self.cause = cause

    broken = CheckpointError("the file is cut: copy it again")
    assert expected(Remote(Remote(broken))) is broken
    wrapped = RuntimeError("while writing")
    wrapped.__cause__ = refused(errno.ENOSPC)
    assert isinstance(expected(wrapped), FileSystemError)


def test_what_nobody_expects_is_not_explained_away():
    handling = KeyError("x")
    handling.__context__ = refused(errno.ENOENT)  # a mistake of ours in the handling of another
    strange = [handling, ValueError("y"), ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
               OSError("no number"), sqlite3.ProgrammingError("closed")]  # fmt: skip
    assert [expected(e) for e in strange] == [None] * len(strange)


# ---- the command line


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (refused(errno.ENOSPC), 1),
        (refused(errno.EROFS), 1),
        (refused(errno.ENOTDIR), 2),
        (StoreError("it is damaged: run again"), 1),
        (RuntimeError(BEAM.format(last="schemas.errors.DataError: empty: give rows")), 1),
        (sqlite3.OperationalError("disk I/O error"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_command_ends_with_one_line_and_its_code(monkeypatch, capsys, raised, code):
    def fail(*arguments: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "spec.yaml"])
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert len(shown.strip().splitlines()) == 1 and "Traceback" not in shown


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "app", lambda *a, **k: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(["schema"])


def test_wrong_options_are_told_in_one_line(capsys):
    for arguments in (
        ["edit"],
        ["nothing"],
        ["faces", "--out", "x", "--random", "0"],
        ["plan", "s.yaml", "--nonsense"],
        ["verify", "x", "--wait", "nan"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        shown = capsys.readouterr().err
        assert ended.value.code == 2 and len(shown.strip().splitlines()) == 1, shown
        assert shown.startswith("error (usage): ") and "--help'" in shown


@pytest.mark.parametrize(
    "command", [["faces", "--people", "1"], ["export", "s.yaml"], ["diff", "a", "b"], ["demo"]]
)
def test_targets_are_paths_of_this_machine(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--out", "s3://bucket/x.npz"])
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and shown.startswith("error (usage): 's3://bucket/x.npz'")
    assert "mount it as a folder" in shown and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    ["3-1", "", "a-b", "-1", "1-", "1,", "1-2-3", "1.5", "²", "0-99999999999", "0,5-3",
     f"0-{MAX_ROWS}"],
)  # fmt: skip
def test_rows_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="--rows is"):
        rows_of(text, "--rows")


def test_rows_and_numbers():
    assert rows_of("0,5,9", "--rows") == [0, 5, 9] and rows_of("0-3,2", "--rows") == [0, 1, 2, 3, 2]
    assert len(rows_of(f"1-{MAX_ROWS}", "--rows")) == MAX_ROWS
    assert numbers_of("-3,1.5,1e2", "--strengths") == [-3, 1.5, 100]
    for text in ("a", "", "nan", "inf", "1e400", "1,,2"):
        with pytest.raises(UsageError, match="--strengths is"):
            numbers_of(text, "--strengths")


def test_a_folder_for_a_file_and_a_file_for_a_folder(tiny, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"x")
    spec = str(tiny / "spec.yaml")
    for arguments in (
        ["report", spec, "--out", tmp_path],
        ["export", spec, "--out", tmp_path / ("n" * 300)],
        ["export", spec, "--out", tmp_path / "file/table.parquet"],
        ["faces", "--random", "1", "--out", tmp_path / "file"],
        ["plan", tmp_path],
        ["gc", tmp_path / "missing"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        shown = capsys.readouterr().err
        assert ended.value.code == 2 and shown.startswith("error ("), shown
        assert len(shown.strip().splitlines()) == 1


# ---- a disk that fills up


def test_bytes_that_do_not_fit_are_told_with_their_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        atomic.write_bytes(tmp_path / "a.json", b"x")
    assert caught.value.filename == str(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


def test_a_run_on_a_full_disk_goes_on_when_there_is_space(tiny, tmp_path, monkeypatch):
    root, other = tmp_path / "copy", tmp_path / "other"
    for copy in (root, other):
        shutil.copytree(tiny, copy, ignore=shutil.ignore_patterns("out"))
    put, left = LatentStore._put, iter(range(9))

    def fill_up(self: LatentStore, key: str, data: bytes) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device", f"{self.path}/{key}")
        put(self, key, data)

    with monkeypatch.context() as patched:
        patched.setattr(LatentStore, "_put", fill_up)
        with pytest.raises(FileSystemError, match=r"c/1.*no space left on device; free space"):
            run_tiny(root / "spec.yaml", "invert")
    for copy in (root, other):
        assert run_tiny(copy / "spec.yaml", "invert").exit_code == 3
    assert tree_digest(root / "out/stores") == tree_digest(other / "out/stores")


# ---- the cache of hashes


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose hashes lie in cache.sqlite."""
    monkeypatch.setattr(fingerprint, "RACY_NS", -(10**18))
    files = [tmp_path / f"{i}.bin" for i in range(3)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]) * 100)
    with ContentHashCache(tmp_path / "cache.sqlite") as cache:
        assert [cache.sha256(file) for file in files] == list(map(file_sha256, files))
    return files


def test_a_damaged_cache_never_answers_wrongly(hashed, tmp_path, rng):
    path = tmp_path / "cache.sqlite"
    data, right = path.read_bytes(), list(map(file_sha256, hashed))
    used = [i for i in range(len(data)) if data[i]]
    for position in [*rng.choice(used, 30, replace=False), *range(16)]:
        for read_only in (True, False):
            changed = bytearray(data)
            changed[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(changed))
            with ContentHashCache(path, read_only=read_only) as cache:
                assert [cache.sha256(file) for file in hashed] == right, position


def test_a_cache_that_cannot_be_written_does_without(hashed, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "file/cache.sqlite", Path("/proc/cache.sqlite")):
        with ContentHashCache(path) as cache:
            assert cache.sha256(hashed[0]) == file_sha256(hashed[0])
            cache._db.close()  # any error of the database, in the midst of work
            assert cache.sha256(hashed[1]) == file_sha256(hashed[1])


def test_all_errors_of_ours_can_be_found_in_a_text():
    for kind in LatentflowError.__subclasses__():
        told = expected(RuntimeError(f"schemas.errors.{kind.__name__}: some text"))
        assert type(told) is kind
