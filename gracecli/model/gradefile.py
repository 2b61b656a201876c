"""Where extrapolation grades are kept: a section of model files, and the published ``gmm_artifacts.npz``.

Section ``/grade`` of a ``.grace`` file, version 1: attributes ``version``, ``options`` and ``provenance`` (JSON),
``sha256``; datasets ``projection``, ``centroids``, ``thresholds``, ``counts``, and ``inverse_covariances`` as upper
triangles. Files without it are as valid as ever, and whoever does not know it reads the model all the same.

The published file (format specification, section 6): per element number e ``centroids_<e>``, ``inv_cov_<e>``,
``counts_<e>``; elements have different numbers of clusters, and the zero rows that fill up take part in the search for
the nearest centroid. The flags say what the feature is: schema 3 ``B R``, 4 ``asinh(B) R``, 6 normalised with
densities.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gracecli.errors import ModelError
from gracecli.model.grade import ExtrapolationGrade

PUBLISHED = "gmm_artifacts.npz"
SECTION, VERSION = "grade", 1
SCHEMAS = (3, 4, 6)
NO_DATA = 1e6
"""Inverse variance that published models give to elements without data."""
WITHOUT = "fetch it again, or remove it: the model works without grades"
_ARRAYS = ("projection", "centroids", "inverse_covariances", "thresholds", "counts")
_OPTIONS = ("transform", "normalize", "density", "density_scale")


def write_section(file: Any, grade: ExtrapolationGrade) -> None:
    """Write ``/grade`` into an open HDF5 file."""
    group = file.create_group(SECTION)
    stored = _packed(grade)
    group.attrs["version"] = VERSION
    group.attrs["options"] = json.dumps({name: getattr(grade, name) for name in _OPTIONS})
    group.attrs["provenance"] = json.dumps(grade.provenance, default=str)
    group.attrs["sha256"] = _digest(stored, str(group.attrs["options"]))
    for name, array in stored.items():
        group.create_dataset(name, data=array, compression="gzip", shuffle=True, fletcher32=True)


def read_section(file: Any, path: Path | str) -> ExtrapolationGrade | None:
    """Read ``/grade`` of an open HDF5 file; None where there is none.

    Raises
    ------
    ModelError
        Damaged, or of a newer gracecli.
    """
    if SECTION not in file:
        return None
    group = file[SECTION]
    version = int(group.attrs["version"])
    if version > VERSION:
        raise ModelError(f"{path}: extrapolation grade of version {version}, this gracecli reads up to {VERSION}")
    stored: dict[str, Any] = {name: np.asarray(group[name][()]) for name in _ARRAYS}
    options = str(group.attrs["options"])
    if _digest(stored, options) != group.attrs["sha256"]:
        raise ModelError(f"{path}: the extrapolation grade does not match its sha256", "fetch or make the file again")
    stored["inverse_covariances"] = _unpacked(stored["inverse_covariances"], stored["centroids"].shape[2])
    return ExtrapolationGrade(**stored, **json.loads(options), provenance=json.loads(str(group.attrs["provenance"])))


def _packed(grade: ExtrapolationGrade) -> dict[str, np.ndarray]:
    arrays = {name: np.ascontiguousarray(getattr(grade, name)) for name in _ARRAYS}
    rows, columns = np.triu_indices(grade.centroids.shape[2])
    arrays["inverse_covariances"] = np.ascontiguousarray(arrays["inverse_covariances"][..., rows, columns])
    return arrays


def _unpacked(triangles: np.ndarray, size: int) -> np.ndarray:
    rows, columns = np.triu_indices(size)
    full = np.empty((*triangles.shape[:-1], size, size), triangles.dtype)
    full[..., rows, columns] = triangles
    full[..., columns, rows] = triangles
    return full


def _digest(arrays: dict[str, np.ndarray], options: str) -> str:
    digest = hashlib.sha256(options.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_published(path: Path, elements: tuple[str, ...]) -> ExtrapolationGrade:
    """Read ``gmm_artifacts.npz`` of a model with these elements.

    Raises
    ------
    ModelError
        Not such a file, of an unknown schema, or of another model.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ModelError(f"{path}: cannot be read: {error}", WITHOUT) from error
    try:
        return _from_published(data, path, elements)
    except KeyError as error:
        raise ModelError(f"{path}: no {error} in it", WITHOUT) from error


def _from_published(data: dict[str, np.ndarray], path: Path, elements: tuple[str, ...]) -> ExtrapolationGrade:
    schema = int(data["__schema_version__"])
    mode = str(data.get("uq_feature_mode", "basis_rp"))
    if schema not in SCHEMAS or mode != "basis_rp":
        known = ", ".join(map(str, SCHEMAS))
        raise ModelError(f"{path}: uncertainty data of schema {schema} ({mode}); known are {known} (basis_rp)", WITHOUT)
    symbols = tuple(str(s) for s in data["element_map"])
    if symbols != elements:
        raise ModelError(f"{path}: made for {' '.join(symbols)}, the model has {' '.join(elements)}", WITHOUT)
    present = [int(e) for e in data["elements"]]
    clusters = max(len(data[f"centroids_{e}"]) for e in present)
    size = int(data[f"centroids_{present[0]}"].shape[1])
    shape = (len(elements), clusters)
    centroids, inverse = np.zeros((*shape, size), np.float32), np.zeros((*shape, size, size), np.float32)
    inverse[[e for e in range(len(elements)) if e not in present]] = NO_DATA * np.eye(size, dtype=np.float32)
    counts = np.zeros(shape, np.int64)
    for e in present:
        own = len(data[f"centroids_{e}"])
        centroids[e, :own], inverse[e, :own] = data[f"centroids_{e}"], data[f"inv_cov_{e}"]
        counts[e, :own] = data[f"counts_{e}"]
    thresholds = np.zeros(shape, np.float32)
    given = data["eff_interp_thresholds"] if "eff_interp_thresholds" in data else data["interp_thresholds"]
    thresholds[: given.shape[0], : given.shape[1]] = given[:, :clusters]
    transform = str(data.get("uq_feature_transform", "asinh" if schema == 4 else "none")).lower()
    return ExtrapolationGrade(
        projection=data["uq_rp_matrix"],
        centroids=centroids,
        inverse_covariances=inverse,
        thresholds=thresholds,
        counts=counts,
        transform="none" if transform in ("", "none", "identity", "linear") else transform,
        normalize=bool(data.get("uq_rp_normalize", schema == 6)),
        density=bool(data.get("uq_rp_add_density_channel", schema == 6)),
        density_scale=float(data.get("uq_rp_density_scale", 1.0)),
        provenance={"from": path.name, "schema": schema, "seed": int(data.get("uq_rp_seed", -1))},
    )


def write_published(path: Path, grade: ExtrapolationGrade, elements: tuple[str, ...]) -> None:
    """Write ``gmm_artifacts.npz`` (schema 6, or 4 and 3 as the feature is)."""
    schema = 6 if grade.normalize or grade.density else 4 if grade.transform == "asinh" else 3
    present = [e for e in range(len(elements)) if grade.covers(e)]
    arrays: dict[str, Any] = {
        "__schema_version__": np.int64(schema),
        "element_map": np.array(elements),
        "elements": np.array(present, np.int32),
        "interp_thresholds": np.asarray(grade.thresholds, np.float32),
        "uq_feature_mode": np.array("basis_rp"),
        "uq_rp_matrix": np.asarray(grade.projection, np.float32),
        "uq_rp_dim": np.int64(grade.projection.shape[1]),
        "uq_rp_seed": np.int64(grade.provenance.get("seed", -1)),
        "uq_rp_normalize": np.bool_(grade.normalize),
        "uq_rp_add_density_channel": np.bool_(grade.density),
        "uq_rp_density_scale": np.float64(grade.density_scale),
    }
    if grade.transform != "none":
        arrays["uq_feature_transform"] = np.array(grade.transform)
    for e in present:
        # readers fill up with zero rows, in which an atom could be found: our own filling rows are written out
        filled = np.any(grade.inverse_covariances[e] != 0.0, axis=(1, 2))
        real = np.flatnonzero(filled)
        arrays[f"centroids_{e}"] = np.asarray(grade.centroids[e, real], np.float32)
        arrays[f"inv_cov_{e}"] = np.asarray(grade.inverse_covariances[e, real], np.float32)
        arrays[f"counts_{e}"] = np.asarray(grade.counts[e, real], np.int64)
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
