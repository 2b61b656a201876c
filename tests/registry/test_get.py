"""From a catalog to the library, over a real web server."""

import gzip
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.errors import ModelError
from gracecli.registry import catalog, lock
from gracecli.registry.bundle import bundle, unbundle
from gracecli.registry.get import get_model
from gracecli.registry.library import accept_content, remove_model, verify_models
from gracecli.registry.resolve import resolve_model

ARCHIVE = "checkpoints/Test-1L-checkpoint.tar.gz"
LICENCE = "Test Licence: tests only"
QUICK = {"pause": 0.001, "attempts": 3}


def packed(*files):
    """A gzip tar with one folder; deterministic."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(f"some-folder/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def document(server, **more):
    entry = {
        "aliases": ["T1"], "description": "1 layer, tiny", "layers": 1, "training_data": "none", "cutoff": [4.0, 4.0],
        "precision": "fp64", "licence": LICENCE, "elements": ["Si", "Ge"], "checkpoint": ARCHIVE, **more,
    }  # fmt: skip
    return {"base": server.base, "models": {"Test-1L": entry}}


@pytest.fixture
def server(library, stored, tmp_path, monkeypatch, new_server):
    """A server with one model, which the only catalog names; an empty library."""
    monkeypatch.delenv("GRACE_OFFLINE", raising=False)
    monkeypatch.delenv("GRACE_MIRRORS", raising=False)
    monkeypatch.delenv("GRACE_LOCK", raising=False)
    made = new_server()
    made.model = stored(tmp_path / "made" / "x.grace", "Si", "Ge")
    made.files[ARCHIVE] = packed(("x.grace", made.model.read_bytes()))
    monkeypatch.setattr(catalog, "all_models", lambda: catalog.read_catalog(document(made)))
    monkeypatch.setattr("gracecli.registry.get.all_models", lambda: catalog.read_catalog(document(made)))
    return made


def get(**options):
    return get_model("Test-1L", **{"accept_licence": True, **QUICK, **options})


def nothing_half_written(library):
    """No model, no unpacked folder; an unfinished download may stay to be continued."""
    assert not list(library.glob("*")) if library.is_dir() else True
    left = {p.name for p in (library.parent / "downloads").iterdir()}
    assert all(name.endswith((".part", ".part.json", ".filelock")) for name in left), left


def test_get_resolve_verify_remove(server, library):
    got = get()
    assert got.fetched.url == server.base + ARCHIVE
    for name in ("Test-1L", "test-1l", "T1"):
        assert resolve_model(name) == library / "Test-1L.grace"
    pin = lock.pins()["Test-1L"]
    assert (pin.sha256, pin.archive_sha256, pin.url) == (got.summary.sha256, got.fetched.sha256, got.fetched.url)
    assert [v.ok for v in verify_models("Test-1L")] == [True]
    assert get().fetched is None  # here already
    assert len(server.requests) == 1
    remove_model("Test-1L")
    assert "Test-1L" not in lock.pins()


@pytest.mark.parametrize("script", [["drop"], ["drop", "drop"], [503], ["slow"], [500, "drop"]])
def test_an_unreliable_server_gives_the_same_model(server, script):
    reference = get().summary.sha256
    server.script[ARCHIVE] = list(script)
    again = get(force=True)
    assert again.summary.sha256 == reference
    assert again.fetched.attempts == len([s for s in script if s != "slow"]) + 1


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([404], "404"),
        (["html"], "web page"),
        (["short"] * 3, "connection broke"),
        ([503] * 3, "503"),
        ([("bytes", b"not an archive" * 100)], "not a complete archive"),
        ([("bytes", packed(("readme.txt", b"hello")))], "no model.yaml"),
        ([("bytes", packed(("model.yaml", b"- 1: [")))], "model"),
        ([("bytes", packed(("x.grace", b"\x89HDF\r\n\x1a\n" + bytes(500))))], "no usable model"),
        ([("bytes", packed(("../../evil.grace", b"x")))], "leaves the folder"),
    ],
)
def test_nothing_half_written_is_ever_a_model(server, library, script, message):
    server.script[ARCHIVE] = script
    with pytest.raises(ModelError, match=message):
        get()
    nothing_half_written(library)
    assert lock.pins() == {}
    assert get().fetched is not None  # and the next try, with a good server, works


def test_other_content_than_pinned_is_refused_and_the_old_stays(server, library, stored, tmp_path):
    before = get().summary.sha256
    other = stored(tmp_path / "made" / "y.grace", "Cu")
    server.files[ARCHIVE], server.etag = packed(("x.grace", other.read_bytes())), '"2"'
    with pytest.raises(ModelError, match=r"not the archive that .*grace.lock records"):
        get(force=True)
    assert [v.sha256 for v in verify_models("Test-1L")] == [before]
    # somebody replaces the file behind our back
    shutil.copyfile(other, library / "Test-1L.grace")
    with pytest.raises(ModelError, match=r"not the one that .*grace.lock records"):
        resolve_model("Test-1L")
    assert [v.ok for v in verify_models("Test-1L")] == [False]


def test_accepting_a_changed_model(server, library, stored, tmp_path):
    get()
    shutil.copyfile(stored(tmp_path / "made" / "y.grace", "Cu"), library / "Test-1L.grace")
    accept_content("Test-1L")
    assert resolve_model("Test-1L") == library / "Test-1L.grace"


def test_catalog_hash_wins(server, monkeypatch, library):
    wrong = catalog.read_catalog(document(server, sha256="0" * 64), "mine")
    monkeypatch.setattr(catalog, "all_models", lambda: wrong)
    with pytest.raises(ModelError, match="the catalog 'mine' records"):
        get()
    nothing_half_written(library)


def test_licence_is_asked_once(server, library):
    with pytest.raises(ModelError, match=r"Test Licence.*not accepted") as caught:
        get(accept_licence=False)
    assert "--accept-licence" in caught.value.hint
    assert server.requests == []  # nothing is fetched before
    asked = []
    get(accept_licence=False, ask=lambda text: asked.append(text) or True)
    assert LICENCE in asked[0]
    remove_model("Test-1L")
    get(accept_licence=False)  # remembered
    assert len(asked) == 1


def test_offline_says_what_to_do(server, monkeypatch):
    monkeypatch.setenv("GRACE_OFFLINE", "1")
    with pytest.raises(ModelError, match="network is not to be used") as caught:
        get()
    assert "bundle" in caught.value.hint
    monkeypatch.delenv("GRACE_OFFLINE")
    with pytest.raises(ModelError, match="network"):
        get(offline=True)
    assert server.requests == []


def test_mirrors_come_first(server, monkeypatch, new_server):
    mirror = new_server()
    mirror.files[ARCHIVE] = server.files[ARCHIVE]
    monkeypatch.setenv("GRACE_MIRRORS", f"{server.base}nowhere {mirror.base}")
    assert get().fetched.url == mirror.base + ARCHIVE
    assert [path for path, _ in server.requests] == [f"nowhere/{ARCHIVE}"]


def _child(base, queue):
    entries = catalog.read_catalog(json.loads(base))
    catalog.all_models = lambda: entries
    try:
        queue.put(get_model("Test-1L", accept_licence=True, **QUICK).summary.sha256)
    except Exception as error:
        queue.put(repr(error))


def test_two_processes_fetch_once(server, library):
    server.script[ARCHIVE] = ["slow"]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(json.dumps(document(server)), queue)) for _ in range(2)]
    for child in children:
        child.start()
    answers = {queue.get(timeout=120) for _ in children}
    for child in children:
        child.join()
    assert len(answers) == 1
    assert len(answers.pop()) == 64
    assert len(server.requests) == 1


def test_bundle_carries_models_to_another_machine(server, library, tmp_path, monkeypatch):
    sha256 = get().summary.sha256
    file = tmp_path / "models.gracebundle"
    assert bundle(["T1"], file) == ["Test-1L"]
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GRACE_OFFLINE", "1")
    (added,) = unbundle(file, accept_licence=True)
    assert added.summary.sha256 == sha256
    assert lock.pins()["Test-1L"].url == server.base + ARCHIVE
    assert resolve_model("Test-1L").is_relative_to(tmp_path / "elsewhere")


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_bundle_gives_nothing(server, tmp_path, monkeypatch, stored, damage):
    get()
    file = tmp_path / "models.gracebundle"
    bundle(["T1"], file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "changed":
        with tarfile.open(file) as tar:
            manifest = json.loads(tar.extractfile("manifest.json").read())
        other = stored(tmp_path / "made" / "y.grace", "Cu")
        with tarfile.open(file, "w") as tar:
            text = json.dumps(manifest).encode()
            info = tarfile.TarInfo("manifest.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
            tar.add(other, "Test-1L.grace")
    else:
        file.write_bytes(packed(("a", b"x")))
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(ModelError):
        unbundle(file, accept_licence=True)
    assert not list((tmp_path / "elsewhere").glob("models/*.grace"))


def test_commands(server, library):
    def grace(*words):
        return CliRunner().invoke(main, ["models", *words])

    refused = grace("get", "Test-1L")
    assert refused.exit_code == 6
    assert "--accept-licence" in refused.stderr
    done = grace("get", "T1", "--accept-licence", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["models"][0]["url"] == server.base + ARCHIVE
    assert "nothing: it is here already" in grace("get", "Test-1L").stdout
    listed = json.loads(grace("list", "--all", "--json").stdout)
    assert [m["here"] for m in listed["models"]] == [True]
    unknown = grace("get", "Test-2L")
    assert unknown.exit_code == 6
    assert "Test-1L" in unknown.stderr


def test_a_fixture_archive_ends_in_a_relaxation(server, shared_folder, tmp_path):
    """``grace models get`` of a published checkpoint, then ``grace relax -m NAME``, as a user types them."""
    folder = shared_folder / "fixtures" / "grace" / "grace_1l_tiny"
    names = ("model.yaml", "checkpoint.index", "checkpoint.data-00000-of-00001")
    server.files["GRACE-1L-OAM.tar.gz"] = packed(*((n, (folder / n).read_bytes()) for n in names))
    server.script["GRACE-1L-OAM.tar.gz"] = ["drop"]
    (entry,) = [m for m in catalog.published_models().values() if m.name == "GRACE-1L-OAM"]
    server.files[entry.checkpoint] = server.files.pop("GRACE-1L-OAM.tar.gz")
    environment = {**os.environ, "GRACE_MIRRORS": server.base, "GRACE_CACHE": str(tmp_path / "cache")}

    def grace(*words):
        return subprocess.run(
            [sys.executable, "-m", "gracecli.cli.main", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = grace("models", "get", "GRACE-1L-OAM", "--accept-licence")
    assert done.returncode == 0, done.stderr
    element = json.loads(grace("models", "info", "GRACE-1L-OAM", "--json").stdout)["elements"][0]
    (tmp_path / "a.extxyz").write_text(
        '2\nLattice="5 0 0 0 5 0 0 0 5" pbc="T T T" Properties=species:S:1:pos:R:3\n'
        f"{element} 0 0 0\n{element} 2.4 2.5 2.6\n"
    )
    done = grace("relax", "a.extxyz", "-m", "GRACE-1L-OAM", "--steps", "300", "--json")
    assert done.returncode in (0, 3), done.stderr
    assert json.loads(done.stdout)["results"][0]["steps"] > 0
