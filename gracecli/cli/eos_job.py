"""The work of ``grace eos``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gracecli.cli.folder_job import Bar, Entry, FolderJob
from gracecli.cli.gamma import gamma_line
from gracecli.cli.output import Column, format_pairs, format_table

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.eos import EosSettings

Document = Mapping[str, Any]


@dataclass
class EosJob(FolderJob):
    """Equations of state of all structures of one call."""

    kind: str = "eos"
    as_json: bool = False
    settings: EosSettings | None = None
    plots: bool = True

    def compute(self, entry: Entry, calculator: GraceCalculator) -> tuple[dict[str, Any], Atoms]:
        """One crystal."""
        from gracecli.run.eos import equation_of_state
        from gracecli.run.eos_files import eos_document, write_files

        assert entry.structure is not None
        with Bar(f"{Path(entry.name).name}: volumes") as bar:
            result = equation_of_state(entry.structure.atoms, calculator, self.settings, progress=bar)
        graded = {"extrapolation": self.extrapolation(result.atoms, calculator)}
        document = self.keep(
            entry,
            {**eos_document(result), **graded},
            lambda folder, text: write_files(folder, result, text, self.plots),
        )
        return document, result.atoms

    def values(self, document: dict[str, Any]) -> dict[str, Any]:
        """What the store can be asked for."""
        return {key: document["curve"][key] for key in ("volume", "bulk_modulus", "bulk_derivative")}

    def card(self, document: dict[str, Any]) -> str:
        """One crystal at length."""
        return eos_card(document)

    def summary(self, documents: Sequence[dict[str, Any]]) -> str:
        """A row each."""
        return eos_summary(documents)

    def units(self) -> dict[str, str]:
        """Units of the documents."""
        from gracecli.run.eos_files import UNITS

        return UNITS


def eos_card(result: Document) -> str:
    """One crystal at length."""
    curve, other, settings = result["curve"], result["other"], result["settings"]
    how = "scaled cells" if settings["clamped"] else "shape and atoms relaxed at every volume"
    head = f"{PurePath(result['name']).name}: {result['formula']}, {result['space_group']}, {how}, {result['model']}"
    d_e, d_v, d_b, d_d = curve["errors"]
    lengths, angles = result["lattice"][:3], result["lattice"][3:]
    values: list[tuple[str, Any]] = [
        ("equation", curve["equation"]),
        ("volume V0", f"{curve['volume']:.4f} ± {d_v:.4f} Å³/atom"),
        ("energy E0", f"{curve['energy']:.6f} ± {d_e:.6f} eV/atom"),
        ("bulk modulus B0", f"{curve['bulk_modulus']:.2f} ± {d_b:.2f} GPa"),
        ("derivative B0'", f"{curve['bulk_derivative']:.3f} ± {d_d:.3f}"),
        ("cell at V0", ", ".join(f"{x:.4f}" for x in lengths) + " Å; " + ", ".join(f"{x:.2f}" for x in angles) + "°"),
    ]
    volumes = result["volumes"]
    checks: list[tuple[str, Any]] = [
        ("volumes", f"{len(volumes)}, {volumes[0]:.3f} to {volumes[-1]:.3f} Å³/atom"),
        ("residual of the fit", f"{1e3 * curve['residual']:.3f} meV/atom (root mean square)"),
        ("pressure", f"curve and stress of the model differ by at most {result['pressure_difference']:.3f} GPa"),
        (
            f"by {other['equation']}",
            f"B0 {other['bulk_modulus']:.2f} GPa, B0' {other['bulk_derivative']:.3f}, V0 {other['volume']:.4f} Å³/atom",
        ),
        ("by stresses near V0", f"B0 {result['bulk_from_stress']:.2f} GPa"),
        ("written to", result["folder"]),
    ]
    if result.get("extrapolation"):
        checks.insert(-1, ("extrapolation", gamma_line(result["extrapolation"])))
    checks += [("warning", text) for text in result["warnings"]]
    lines = format_pairs([*values, *checks], indent="  ").splitlines()
    return "\n".join([head, "", *lines[: len(values)], "", *lines[len(values) :]])


def eos_summary(results: Sequence[Document]) -> str:
    """Several crystals, a row each; reasons below."""
    columns: list[Column | str] = [
        "structure", "space group", Column("V0", "Å³/atom", ".4f"), Column("E0", "eV/atom", ".6f"),
        Column("B0", "GPa", ".2f"), Column("B0'", "", ".3f"), Column("residual", "meV/atom", ".3f"), "written to",
    ]  # fmt: skip
    rows = []
    for result in results:
        name = PurePath(result["name"]).name
        if "error" in result:
            rows.append([name, "FAILED", *[None] * 6])
            continue
        c = result["curve"]
        rows.append(
            [
                name, result["space_group"], c["volume"], c["energy"], c["bulk_modulus"], c["bulk_derivative"],
                1e3 * c["residual"], result["folder"],
            ]
        )  # fmt: skip
    remarks = [f"  {result['error']['message']}" for result in results if "error" in result]
    return "\n".join([format_table(columns, rows), *(["", *remarks] if remarks else [])])
