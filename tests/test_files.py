"""Files are whole or not there."""

import os
import stat

import pytest

from gracecli.errors import InputError
from gracecli.files import refuse_overwrite, write_atomically, write_text_atomically


def test_writes_and_leaves_nothing_else(tmp_path):
    path = write_text_atomically(tmp_path / "a.json", "Å\n")
    assert path.read_text(encoding="utf-8") == "Å\n"
    assert list(tmp_path.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_failing_writer_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def writer(temporary):
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_atomically(path, writer)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_existing_files_need_force(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(InputError, match=r"a\.txt exists.*--force"):
        write_text_atomically(path, "new", force=False)
    with pytest.raises(InputError, match="--force"):
        refuse_overwrite(path, force=False)
    assert path.read_text() == "old"
    write_text_atomically(path, "new", force=True)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_links_are_followed_and_devices_written(tmp_path):
    (tmp_path / "folder").mkdir()
    real = tmp_path / "folder" / "real.txt"
    real.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_text_atomically(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    write_text_atomically("/dev/null", "gone")


@pytest.mark.parametrize("name", ["missing/a.txt", "."])
def test_unwritable_places_are_one_clear_error(tmp_path, name):
    with pytest.raises(InputError, match="cannot write") as caught:
        write_text_atomically(tmp_path / name, "text")
    assert caught.value.exit_code == 4
