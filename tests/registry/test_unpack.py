"""Archives from elsewhere: nothing leaves the folder, nothing fills the disk."""

import io
import tarfile

import pytest

from gracecli.errors import ModelError
from gracecli.registry import unpack as module
from gracecli.registry.unpack import unpack


def archive(tmp_path, *members, mode="w:gz"):
    """Members: (name, content) or a TarInfo."""
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_one_folder(tmp_path):
    top = unpack(archive(tmp_path, ("m/model.yaml", b"x"), ("m/sub/c", b"yz")), tmp_path / "out")
    assert top == tmp_path / "out" / "m"
    assert (top / "sub" / "c").read_bytes() == b"yz"
    assert (top / "model.yaml").stat().st_mode & 0o111 == 0


def test_several_members_stay_in_the_folder(tmp_path):
    top = unpack(archive(tmp_path, ("a", b"x"), ("b", b"y")), tmp_path / "out")
    assert top == tmp_path / "out"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../evil", b"x"), "leaves the folder"),
        (("m/../../evil", b"x"), "leaves the folder"),
        (("/tmp/evil", b"x"), "leaves the folder"),
        (("m\\..\\evil", b"x"), "leaves the folder"),
        (special("m/link", tarfile.SYMTYPE, "/etc/passwd"), "link or a device"),
        (special("m/hard", tarfile.LNKTYPE, "m/model.yaml"), "link or a device"),
        (special("m/pipe", tarfile.FIFOTYPE), "link or a device"),
        (special("m/null", tarfile.CHRTYPE), "link or a device"),
        (("m/model.yaml", b"another"), "occurs twice"),
    ],
)
def test_malicious_members_are_refused_before_anything_is_written(tmp_path, member, message):
    path = archive(tmp_path, ("m/model.yaml", b"x"), member)
    with pytest.raises(ModelError, match=message):
        unpack(path, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar.gz", "out"}


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FREE_BYTES", 1000)
    path = archive(tmp_path, ("m/zeros", bytes(4_000_000)))
    assert path.stat().st_size < 10_000
    with pytest.raises(ModelError, match="larger than"):
        unpack(path, tmp_path / "out")
    monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    path = archive(tmp_path, *((f"m/{i}", b"") for i in range(5)))
    with pytest.raises(ModelError, match="more than 3 members"):
        unpack(path, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"<html></html>",
        lambda content: b"",
        lambda content: content[:40] + bytes(200) + content[240:],
    ],
    ids=["cut", "html", "empty", "zeros inside"],
)
def test_damaged_archives(tmp_path, damage):
    import random

    path = archive(tmp_path, ("m/a", random.Random(1).randbytes(5000)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"not a complete archive|empty archive"):
        unpack(path, tmp_path / "out")
