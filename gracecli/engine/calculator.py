"""The ASE face of the engines: GRACE for any ASE optimizer, dynamics, filter or database.

Energies are force-consistent (``free_energy`` equals ``energy``), in eV; forces in eV/Å; stress in eV/Å^3,
tensile-positive, in ASE's Voigt order xx yy zz yz xz xy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from gracecli.engine.base import Engine, Graph, Results
from gracecli.engine.bonds import cell_volume
from gracecli.engine.check import MIN_DISTANCE, ModelsCovering, check_contents, check_distances
from gracecli.engine.grading import want_gamma
from gracecli.engine.neighbours import NeighbourList, build_graph
from gracecli.errors import InputError, UsageError

if TYPE_CHECKING:
    from ase import Atoms

# µs/atom/step of the neighbour list by skin (benchmarks/neighbours.py, Cu, cutoff 6 Å, one thread):
#
#     skin / Å                    0    0.2    0.3    0.4    0.5    0.7    1.0    1.5
#     MD 300 K, 2 fs           27.1    7.4    6.3    5.4    5.0    5.1    5.8    5.7
#     MD 1000 K, 2 fs          28.9   10.3    8.5    8.0    7.7    6.5    7.1    7.5
#     BFGS with cell           52.2    8.7    7.4    8.9    7.6    6.9    8.2    8.1
#     FIRE with cell           59.8    7.9    7.2    6.8    7.6    6.6    8.2    8.0
#
# Flat between 0.4 and 0.7; the smaller half stores fewer bonds.
DEFAULT_SKIN = 0.5


class GraceCalculator(Calculator):
    """ASE calculator for GRACE models, and for any engine of a plugin.

    Parameters
    ----------
    model : str, Path or None
        Registered name, ``.grace`` file or published model directory; None is the bundled default model.
    head : str, optional
        Head (level of theory) of a model that has several; default is the one the model was made for.
    engine : str or Engine
        Name of an engine (``"auto"`` chooses) or a ready engine, which then brings its own model.
    precision : str, optional
        ``"fp64"`` or ``"fp32"``; None leaves it to the engine.
    skin : float
        Extra reach of the stored neighbour list in Å; changes speed only.
    min_distance : float
        Atoms closer than this (Å) are an error; 0 allows anything.
    gamma : bool, optional
        Whether ``results["gamma"]`` holds the extrapolation grade of every atom, for models that have it. Default: with
        the engine ``tensorflow``, where it costs next to nothing (``native``: 10 to 17 % of an evaluation).
    models_covering : callable, optional
        Symbols -> names of models that cover them, for the error message of an element the model lacks; default is
        the registry's :func:`gracecli.registry.covering.suggest_models`.
    **options
        Passed to the engine's factory.

    Notes
    -----
    Results: energy, free_energy, energies, forces, and stress where the cell has a volume; what else the engine
    returns (``gamma``, the extrapolation grade) is in ``calculator.results``.

    Examples
    --------
    >>> atoms.calc = GraceCalculator("my-model.grace")  # doctest: +SKIP
    >>> atoms.get_potential_energy()  # doctest: +SKIP
    """

    name = "grace"
    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: str | Path | None = None,
        engine: str | Engine = "auto",
        precision: str | None = None,
        *,
        head: str | None = None,
        skin: float = DEFAULT_SKIN,
        min_distance: float = MIN_DISTANCE,
        gamma: bool | None = None,
        models_covering: ModelsCovering | None = None,
        **options: Any,
    ) -> None:
        if isinstance(engine, str):
            from gracecli.engine.create import create_engine
            from gracecli.registry.resolve import with_head

            model = with_head(model, head)
            self.engine: Engine = create_engine(model, engine, precision, **options)
        else:
            given = {"model": model, "head": head, "precision": precision, **options}
            extra = sorted(key for key, value in given.items() if value is not None)
            if extra:
                raise UsageError(f"a ready engine brings its own {', '.join(extra)}", "give one or the other")
            self.engine = engine
        if gamma is not None:
            want_gamma(self.engine, gamma)
        self.skin = float(skin)
        self.min_distance = float(min_distance)
        self.models_covering = _registry_suggestions if models_covering is None else models_covering
        self._bond_filter = getattr(self.engine, "bond_filter", None)
        self.neighbour_list = NeighbourList(self.engine.cutoff, self.skin, self.engine.pair_cutoff, self._bond_filter)
        self._seconds = dict.fromkeys(("check", "neighbours", "engine"), 0.0)
        self._evaluations = 0
        self._sealed = False
        super().__init__(
            model=None if model is None else str(model),
            engine=self.engine.name,
            precision=self.engine.precision,
            skin=self.skin,
        )
        self._sealed = True

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refused: a calculator keeps the model and settings it was made with."""
        if self._sealed and kwargs:
            raise UsageError(f"GraceCalculator cannot change {', '.join(sorted(kwargs))}", "make a new calculator")
        return dict(super().set(**kwargs))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate everything at once (ASE calls this when its cache does not hold the answer).

        Raises
        ------
        InputError
            The structure cannot be evaluated (:func:`gracecli.engine.check.check_structure`).
        PropertyNotImplementedError
            The stress of a structure whose cell has no volume.
        """
        super().calculate(atoms, list(properties), system_changes)
        self.results = {}
        has_volume = not np.isnan(cell_volume(self.atoms.cell.array))
        if "stress" in properties and not has_volume:
            raise PropertyNotImplementedError("the stress needs three independent cell vectors")
        (result,) = self._evaluate([self.atoms], [self.neighbour_list])
        self.results = _as_ase(result, has_volume)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Results]:
        """Evaluate many structures, batched where the engine can; leaves ASE's cache alone.

        Parameters
        ----------
        structures : sequence of ase.Atoms

        Returns
        -------
        list of Results
            In the same order; ``stress`` is NaN where the cell has no volume.

        Raises
        ------
        InputError
            A structure cannot be evaluated; with several, its place in the list is named.
        """
        return self._evaluate(structures, [None] * len(structures))

    def statistics(self) -> dict[str, Any]:
        """Counters of the engine, and of this calculator: lists built and reused, seconds by part."""
        lists = self.neighbour_list
        return {
            **self.engine.statistics(),
            "structures_evaluated": self._evaluations,
            "neighbour_list_calls": lists.calls,
            "neighbour_list_rebuilds": lists.rebuilds,
            **{f"{part}_seconds": seconds for part, seconds in self._seconds.items()},
        }

    def _evaluate(self, structures: Sequence[Atoms], lists: Sequence[NeighbourList | None]) -> list[Results]:
        graphs = []
        for place, (atoms, neighbour_list) in enumerate(zip(structures, lists, strict=True)):
            try:
                graphs.append(self._graph(atoms, neighbour_list))
            except InputError as error:
                if len(structures) == 1:
                    raise
                raise InputError(f"structure {place + 1} of {len(structures)}: {error.message}", error.hint) from error
        start = perf_counter()
        results = self.engine.evaluate(graphs) if graphs else []
        self._seconds["engine"] += perf_counter() - start
        self._evaluations += len(graphs)
        return results

    def _graph(self, atoms: Atoms, neighbour_list: NeighbourList | None) -> Graph:
        start = perf_counter()
        check_contents(
            atoms, self.engine.elements, min_distance=self.min_distance, models_covering=self.models_covering
        )
        checked = perf_counter()
        if neighbour_list is not None:
            graph = neighbour_list.graph(atoms)
        else:
            graph = build_graph(atoms, self.engine.cutoff, self.engine.pair_cutoff, self._bond_filter)
        found = perf_counter()
        check_distances(atoms, graph, self.min_distance)
        self._seconds["check"] += checked - start + perf_counter() - found
        self._seconds["neighbours"] += found - checked
        return graph


def _registry_suggestions(symbols: Sequence[str]) -> Sequence[str]:
    """Ask the registry, which is imported only when an element is missing."""
    from gracecli.registry.covering import suggest_models

    return suggest_models(symbols)


def _as_ase(result: Results, has_volume: bool) -> dict[str, Any]:
    """An engine's results under ASE's names."""
    results: dict[str, Any] = {
        "energy": float(result.energy),
        "free_energy": float(result.energy),
        "energies": np.asarray(result.energies),
        "forces": np.asarray(result.forces),
    }
    if has_volume:
        results["stress"] = np.asarray(result.stress)
    return {**result.extra, **results}
