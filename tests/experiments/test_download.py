"""Downloads from a server on this machine: what is wrong never gets a file's name, and one process does the work."""

import gzip
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from experiments.download import DownloadError, RemoteFile, fetch, once, page_hint
from experiments.record import locked

from .conftest import ROOT
from .mirror import Mirror

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with Mirror() as mirror:
        yield mirror


def remote(*urls, name="images", content=CONTENT):
    return RemoteFile(name, len(content), hashlib.sha256(content).hexdigest(), urls)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refused():
    """Return an address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/images"


def test_a_file_is_written_whole_and_not_asked_for_twice(server, tmp_path):
    file = remote(server.url("images", CONTENT))
    fetch(tmp_path, file)
    fetch(tmp_path, file)
    assert (tmp_path / "images").read_bytes() == CONTENT
    assert (names(tmp_path), server.asked) == (["images"], ["images"])


def test_packed_files_are_unpacked_unless_they_are_wanted_packed(server, tmp_path):
    packed = gzip.compress(CONTENT)
    url = server.url("images.gz", packed)
    fetch(tmp_path, remote(url))
    fetch(tmp_path, remote(url, name="images.tar.gz", content=packed))
    assert (tmp_path / "images").read_bytes() == CONTENT
    assert (tmp_path / "images.tar.gz").read_bytes() == packed


SILENT = "timed out"


def bad_mirrors(server):
    """Return addresses that give something else, by what the error must say of them."""
    page = b"<!DOCTYPE html><title>moved</title>"
    packed = gzip.compress(bytes(reversed(CONTENT)))  # not to be packed away to nothing
    return {
        "SHA-256 is": server.url("other", CONTENT[:-1] + b"\0"),
        "ended after 100 of 10,240 bytes": server.url("cut", CONTENT[:100], promised=len(CONTENT)),
        "ended after .* of 10,240 bytes": server.url("cut.gz", packed[:-20], promised=len(packed)),
        "web page": server.url("page", page),
        "Not a gzipped file": server.url("page.gz", page),
        "invalid": server.url("broken.gz", packed[:12] + b"\xff" * 200 + packed[212:]),
        "longer than": server.url("long", CONTENT + b"\0"),
        "404": server.url("gone", b"", status=404),
        "503": server.url("busy", CONTENT, status=503),
        SILENT: server.url("silent", CONTENT, pause_s=3.0),
        "refused": refused(),
        "http://": "file:///etc/hostname",
    }


def test_each_failure_is_said_and_leaves_nothing(server, tmp_path, monkeypatch):
    for said, url in bad_mirrors(server).items():
        monkeypatch.setattr("experiments.download.SILENCE_S", 0.5 if said == SILENT else 30.0)
        with pytest.raises(DownloadError, match=said) as caught:
            fetch(tmp_path, remote(url))
        assert url in str(caught.value)
        assert names(tmp_path) == []


def test_the_next_mirror_is_tried_after_any_failure(server, tmp_path, monkeypatch):
    good = server.url("images", CONTENT)
    for i, (said, url) in enumerate(bad_mirrors(server).items()):
        monkeypatch.setattr("experiments.download.SILENCE_S", 0.5 if said == SILENT else 30.0)
        fetch(tmp_path, replace(remote(url, good), name=str(i)))
        assert (tmp_path / str(i)).read_bytes() == CONTENT


def test_all_failures_are_in_one_error(server, tmp_path):
    urls = [server.url("other", CONTENT[:-1] + b"\0"), refused(), server.url("gone", b"", status=404)]
    with pytest.raises(DownloadError) as caught:
        fetch(tmp_path, remote(*urls))
    for url, said in zip(urls, ("SHA-256", "refused", "404"), strict=True):
        assert any(url in line and said in line for line in str(caught.value).splitlines())


def test_a_file_that_is_there_with_another_content_stays(server, tmp_path):
    (tmp_path / "images").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"images is there with another content \(4 bytes"):
        fetch(tmp_path, remote(server.url("images", CONTENT)))
    assert (tmp_path / "images").read_bytes() == b"mine"
    assert server.asked == []


ONE_OF_TWO = """
import sys
from pathlib import Path
from experiments.download import RemoteFile, fetch, once

folder, url, size, sha256 = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
once(folder, (folder / "images").exists, lambda: fetch(folder, RemoteFile("images", size, sha256, (url,))), wait_s=20)
assert (folder / "images").stat().st_size == size
"""


@pytest.mark.parametrize("ranks", [(None, None), ("0", "1")])
def test_of_two_processes_one_downloads(server, tmp_path, ranks):
    file = remote(server.url("images", CONTENT, pause_s=0.5))
    command = [sys.executable, "-c", ONE_OF_TWO, tmp_path / "new", file.urls[0], str(file.size), file.sha256]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # with ranks, the one that must wait comes first
    processes = [
        subprocess.Popen(command, env=environment | ({} if rank is None else {"RANK": "4", "LOCAL_RANK": rank}))
        for rank in reversed(ranks)
    ]
    assert [process.wait(30) for process in processes] == [0, 0]
    assert server.asked == ["images"]
    assert (tmp_path / "new" / "images").read_bytes() == CONTENT


def test_who_waited_looks_again_before_it_works(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    done = []

    def work():
        time.sleep(0.2)
        done.append(1)

    threads = [threading.Thread(target=once, args=(tmp_path, lambda: bool(done), work)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1]


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": "1", "RANK": "0"}, {"RANK": "2"}])
def test_other_ranks_wait_for_what_the_first_makes(tmp_path, monkeypatch, variables):
    for name in ("LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    begun, path = time.monotonic(), tmp_path / "images"
    threading.Timer(0.3, path.touch).start()
    once(tmp_path, path.exists, lambda: pytest.fail("not its turn"))
    assert time.monotonic() - begun >= 0.3
    with pytest.raises(DownloadError, match=r"waited 0\.2 s for rank 0"):
        once(tmp_path, lambda: False, lambda: pytest.fail("not its turn"), wait_s=0.2)


def test_waiting_for_another_process_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with locked(tmp_path), pytest.raises(DownloadError, match=r"waited 0\.2 s for another process"):
        once(tmp_path, lambda: False, lambda: pytest.fail("not alone"), wait_s=0.2)


def test_what_is_ready_needs_no_folder_to_write_in(tmp_path):
    once(tmp_path / "read-only" / "x", lambda: True, lambda: pytest.fail("nothing to do"))
    assert names(tmp_path) == []


def test_pages_are_recognised():
    assert page_hint(b"\xef\xbb\xbf\r\n<html>").endswith("a web page under the file's name?")
    assert page_hint(b"\0\0\x08\x03<") == page_hint(b"") == ""
