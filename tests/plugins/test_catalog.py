"""A plugin that brings a catalog: its models are listed, fetched and used like the published ones."""

import functools
import http.server
import json
import threading

import pytest

from gracecli.files import file_sha256
from gracecli.registry.resolve import DEFAULT_MODEL, bundled_models

BUNDLED = bundled_models()[DEFAULT_MODEL]
PLUGIN = """
    from gracecli.plugin import ModelCatalogSpec, hookimpl

    @hookimpl
    def gracecli_register_model_catalogs():
        yield ModelCatalogSpec(name="lab", help="Models of our lab.", catalog="lab_catalog_data:catalog")
"""
DATA = """
    def catalog():
        entry = {{
            "aliases": ["lab"], "description": "1 layer, nine elements", "layers": 1, "cutoff": [6.0, 6.0],
            "precision": "fp32", "licence": "MIT", "elements": ["Cu", "Si"], "checkpoint": "lab-1.grace",
            "sha256": "{sha256}",
        }}
        return {{"base": "{base}", "models": {{"Lab-1": entry, "GRACE-1L-OAM": entry}}}}
"""


@pytest.fixture
def address(tmp_path_factory):
    """A web server with the model."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "lab-1.grace").write_bytes(BUNDLED.read_bytes())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_models_of_a_plugin_are_fetched_and_used(site, address, tmp_path):
    site.install("lab-catalog", PLUGIN)
    data = DATA.format(base=address, sha256=file_sha256(BUNDLED))
    (tmp_path / "lab_catalog_data.py").write_text("\n".join(line[4:] for line in data.splitlines()))
    environment = {"GRACE_CACHE": str(tmp_path / "cache"), "GRACE_OFFLINE": "", "GRACE_MIRRORS": ""}

    listed = site.grace_process("models", "list", "--all", "--json", **environment)
    assert listed.returncode == 0, listed.stderr
    names = [model["name"] for model in json.loads(listed.stdout)["models"]]
    assert names.count("Lab-1") == 1
    assert names.count("GRACE-1L-OAM") == 1  # the built-in catalog keeps its names

    done = site.grace_process("models", "get", "lab", "--accept-licence", **environment)
    assert done.returncode == 0, done.stderr
    (tmp_path / "Cu.xyz").write_text(
        '1\nLattice="0 1.8 1.8 1.8 0 1.8 1.8 1.8 0" pbc="T T T" Properties=species:S:1:pos:R:3\nCu 0 0 0\n'
    )
    energies = []
    for model in ("Lab-1", str(BUNDLED)):
        done = site.grace_process("predict", "Cu.xyz", "-m", model, "--json", **environment)
        assert done.returncode == 0, done.stderr
        energies.append(json.loads(done.stdout)["results"][0]["energy"])
    assert energies[0] == energies[1]


def test_a_broken_catalog_is_a_warning(site, tmp_path):
    site.install("lab-catalog", PLUGIN)
    (tmp_path / "lab_catalog_data.py").write_text("def catalog():\n    return {'models': {'Lab-1': {}}}\n")
    done = site.grace_process("models", "list", "--all", GRACE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "Lab-1" in done.stderr
    assert "GRACE-1L-OAM" in done.stdout
