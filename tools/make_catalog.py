"""Write gracecli/registry/catalog.json from a registry of published models.

``python tools/make_catalog.py registry.json``. Of the addresses the checkpoint is kept (blueprint and weights: what is
converted), relative to one base, so that a mirror replaces the base. The 89 elements of the models trained on OMat24
are H to Bi and Ac to Pu; what SMAX models cover is not stated with the registry.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

TARGET = Path(__file__).parents[1] / "gracecli" / "registry" / "catalog.json"
LICENCES = {"Academic Software License": "Academic Software License: academic, non-commercial use only"}
BASE = "https://huggingface.co/AMS-ICAMS-RUB/grace-foundation-models/resolve/"
PAIR_CUTOFFS = [5.0, 7.5]


def entry(model: dict[str, Any]) -> dict[str, Any]:
    """Catalog entry of one model of the registry."""
    per_pair = model["cutoff_angstrom"] is None
    kind = model["layers"]
    return {
        "aliases": model["aliases"],
        "description": f"{kind.split(' (')[0]}, {model['size']}",
        "layers": 1 if kind.startswith("FS") else int(kind.split()[0]),
        "training_data": model["training_data"],
        "cutoff": PAIR_CUTOFFS if per_pair else [model["cutoff_angstrom"]] * 2,
        "precision": model["precision"],
        "licence": model["license"],
        "elements": "unstated" if per_pair else "omat89",
        "checkpoint": model["checkpoint_url"].removeprefix(BASE),
    }


def main(source: str) -> None:
    """Read the registry, write the catalog, one model per line."""
    models = json.loads(Path(source).read_text(encoding="utf-8"))["models"]
    head = {
        "schema": "gracecli.catalog",
        "schema_version": 1,
        "_units": {"cutoff": "Å"},
        "base": BASE,
        "licences": LICENCES,
        "element_sets": {"omat89": [*chemical_symbols[1:84], *chemical_symbols[89:95]]},
    }
    lines = [f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in head.items()]
    rows = [f'  "{name}": {json.dumps(entry(model), ensure_ascii=False)}' for name, model in models.items()]
    lines.append('"models": {\n' + ",\n".join(rows) + "\n}")
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
