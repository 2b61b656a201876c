"""A fetch ends with the whole file or with an error that says why, whatever the server does."""

import hashlib

import pytest

from gracecli.errors import ModelError
from gracecli.registry.download import Unavailable, fetch, part_of

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(new_server):
    made = new_server()
    made.files["a.bin"] = CONTENT
    return made


def get(server, tmp_path, *names, **options):
    urls = [server.base + name for name in names or ("a.bin",)]
    return fetch(urls, tmp_path / "a.bin", pause=0.001, **options)


def nothing_left(tmp_path):
    return not any(tmp_path.iterdir())


def test_whole_file_and_its_hash(server, tmp_path):
    seen = []
    fetched = get(server, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_dropped_line_is_continued(server, tmp_path, ranges):
    server.ranges = ranges
    server.script["a.bin"] = ["drop", "drop"]
    fetched = get(server, tmp_path)
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.attempts == 3
    asked = [asked for _, asked in server.requests]
    assert asked[0] is None
    assert asked[1] == f"bytes={len(CONTENT) // 2}-"


def test_a_later_run_continues_where_the_first_was_cut_off(server, tmp_path):
    server.script["a.bin"] = ["drop"]
    with pytest.raises(ModelError, match="connection broke"):
        get(server, tmp_path, attempts=1)
    left = part_of(tmp_path / "a.bin").stat().st_size
    assert 0 < left < len(CONTENT)
    assert not (tmp_path / "a.bin").exists()
    fetched = get(server, tmp_path)
    assert fetched.resumed == left
    assert fetched.path.read_bytes() == CONTENT
    assert server.requests[-1] == ("a.bin", f"bytes={left}-")


def test_another_file_by_now_is_fetched_from_the_start(server, tmp_path):
    server.script["a.bin"] = ["drop"]
    with pytest.raises(ModelError):
        get(server, tmp_path, attempts=1)
    server.files["a.bin"], server.etag = CONTENT[::-1], '"2"'
    assert get(server, tmp_path).path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([404], "answers 404"),
        (["html"], "web page"),
        ([503] * 9, r"answers 503 .*\(3 attempts\)"),
        (["short"] * 9, "connection broke"),
        ([("bytes", b"")], "0 bytes"),
    ],
)
def test_what_is_not_the_file_is_an_error_and_leaves_nothing(server, tmp_path, script, message):
    server.script["a.bin"] = script
    with pytest.raises(ModelError, match=message) as caught:
        get(server, tmp_path, attempts=3)
    assert not (tmp_path / "a.bin").exists()
    assert "unbundle" in caught.value.hint


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.script["a.bin"] = [503, 429, "slow"]
    assert get(server, tmp_path).attempts == 3


def test_mirrors_are_tried_in_order(server, tmp_path):
    fetched = get(server, tmp_path, "missing.bin", "a.bin")
    assert fetched.url == server.base + "a.bin"
    assert [path for path, _ in server.requests] == ["missing.bin", "a.bin"]


def test_nobody_there(tmp_path):
    with pytest.raises(ModelError, match=r"no connection \(2 attempts\)"):
        fetch(["http://127.0.0.1:9/a.bin"], tmp_path / "a.bin", attempts=2, pause=0.001)
    assert nothing_left(tmp_path)


def test_unavailable_is_a_model_error():
    assert Unavailable("x").exit_code == 6
