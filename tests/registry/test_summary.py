"""Summaries: right, remembered, and never stale."""

import json
import os
import shutil
import subprocess
import sys

import h5py
import pytest

from gracecli.registry import summary as module
from gracecli.registry.summary import Summary, Unreadable, summaries


def test_summary_states_the_model(library, stored):
    path = stored(library / "copper.grace", "Cu", "Ni", licence="MIT", level_of_theory="PBE")
    (found,) = summaries()
    assert (found.name, found.elements, found.layers) == ("copper", ("Cu", "Ni"), 1)
    assert (found.cutoff, found.smallest_cutoff, found.precision) == (4.0, 4.0, "fp64")
    assert (found.licence, found.level_of_theory, found.size) == ("MIT", "PBE", path.stat().st_size)
    with h5py.File(path) as file:
        sizes = []
        file["weights"].visititems(
            lambda name, item: (
                sizes.append(item.size) if isinstance(item, h5py.Dataset) and name[-3:] != "/rc" else None
            )
        )
    assert found.parameters == sum(sizes)


def test_pair_cutoffs_give_a_range(library, shared_folder, tensorflow):
    from gracecli.registry.library import add_model

    add_model(shared_folder / "fixtures" / "grace" / "grace_1l_bondcut_zbl_tiny")
    (found,) = summaries()
    assert (found.smallest_cutoff, found.cutoff) == (3.8, 5.1)


def forbid_reading(monkeypatch):
    def fail(path):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("gracecli.model.modelfile.load_model", fail)


def test_remembered_summaries_open_no_file(library, stored, settled, monkeypatch):
    stored(library / "a.grace", "Cu")
    stored(library / "b.grace", "Cu", "Ni")
    first = summaries()
    forbid_reading(monkeypatch)
    assert summaries() == first


def test_fresh_files_are_not_remembered(library, stored):
    """Within one tick of the clock a file can change without a trace."""
    stored(library / "a.grace", "Cu")
    summaries()
    assert json.loads((library / ".summaries.json").read_text())["files"] == {}


def rewrite(path, stored, library):
    stored(path, "Ni")


def edit_in_place(path, stored, library):
    """Same inode, same size, the modification time set back: only the change time tells."""
    before = path.stat()
    with h5py.File(path, "a") as file:
        text = file.attrs["metadata"]
        assert "MIT" in text
        file.attrs.modify("metadata", text.replace("MIT", "GPL"))
    content = path.read_bytes()[: before.st_size]
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def copy_over(path, stored, library):
    other = stored(library.parent / "other.grace", "Ni")
    shutil.copystat(path, other)
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, edit_in_place, copy_over])
def test_a_changed_file_is_read_again(library, stored, settled, change):
    path = stored(library / "a.grace", "Cu", licence="MIT")
    before = summaries()
    change(path, stored, library)
    after = summaries()
    assert after != before
    memory = library / ".summaries.json"
    memory.unlink()
    assert summaries() == after


def test_a_removed_model_is_gone(library, stored, settled):
    path = stored(library / "a.grace", "Cu")
    assert len(summaries()) == 1
    path.unlink()
    assert summaries() == []
    assert json.loads((library / ".summaries.json").read_text())["files"] == {}


def test_damaged_file_is_a_row_and_never_remembered(library, stored, settled):
    path = stored(library / "a.grace", "Cu")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (found,) = summaries()
    assert isinstance(found, Unreadable)
    assert "a.grace: damaged model file" in found.error
    path.write_bytes(whole)
    assert isinstance(summaries()[0], Summary)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 0, "files": {}}', '{"version": 1, "files": [1]}'])
def test_unusable_memory_is_made_again(library, stored, settled, content):
    stored(library / "a.grace", "Cu")
    expected = summaries()
    (library / ".summaries.json").write_text(content)
    assert summaries() == expected


def test_library_that_cannot_be_written_still_lists(library, stored, settled, monkeypatch):
    stored(library / "a.grace", "Cu")

    def refuse(path, text):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr("gracecli.files.write_text_atomically", refuse)
    assert [found.name for found in summaries()] == ["a"]
    assert not (library / ".summaries.json").exists()


def test_half_written_files_are_no_models(library, stored):
    stored(library / ".a-123-abc.grace", "Cu")
    assert summaries() == []


def test_list_imports_nothing_heavy(library, stored, monkeypatch):
    stored(library / "a.grace", "Cu")
    program = (
        "import sys, time\nimport gracecli.registry.summary as s\ns.SETTLED_SECONDS = -1e9\n"
        "from gracecli.cli.main import main\n"
        "try: main(['models', 'list'])\nexcept SystemExit as end: assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GRACE_PLUGINS": ""},
        )
        for _ in range(2)
    ]
    first, second = (set(run.stderr.split()) for run in runs)
    assert "h5py" in first
    assert {"tensorflow", "ase"}.isdisjoint(first)
    assert {"tensorflow", "ase", "numpy", "h5py", "yaml"}.isdisjoint(second)
    assert all("  Cu  " in run.stdout or " Cu " in run.stdout for run in runs)
    assert module.CACHE_VERSION == 1
