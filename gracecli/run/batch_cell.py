r"""The cell modes of :mod:`gracecli.run.cell` for many structures at once: the same equations, a stack of 3x3 matrices.

Generalised coordinates of a structure are rows (N + 3, 3): the atoms in the undeformed cell, then ``scale`` times the
strain coordinates. With ``D`` the deformation (rows are vectors), :math:`x = X D` and the cell is :math:`h = h_0 D`::

    symmetric strain U:   D = exp U                    lengths q:   D = h_0^-1 diag(exp q) h_0
    generalised forces:   f D^T (atoms),   -V dH/dU / scale (cell)

Fractional coordinates are :math:`x h^{-1} = X h_0^{-1}`. An atom of which some fractional coordinates are fixed may
therefore move in the undeformed frame within the span of the free rows of :math:`h_0`, whatever the deformation: its
generalised force is projected orthogonally on that span, and steps made of such forces keep the constraint exactly.

=================  =============================================
symbol             variable
=================  =============================================
h_0, h             ``start_cell``, ``cells`` (S, 3, 3) in Å
U, or diag(q)      ``strain`` (S, 3, 3)
D                  ``deformation`` (S, 3, 3)
p                  ``pressure`` (eV/Å^3)
=================  =============================================
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gracecli.run.cell import CellMode

Array = NDArray[np.float64]
_IDENTITY = np.eye(3)


def tensors(voigt: Array) -> Array:
    """Symmetric tensors (S, 3, 3) of Voigt vectors (S, 6), xx yy zz yz xz xy."""
    return voigt[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(-1, 3, 3)


def residual_stresses(mode: CellMode, cells: Array, stress: Array, pressure: float) -> Array:
    """Largest absolute stress component (S,) that the mode lets relax, relative to its target (eV/Å^3)."""
    tensor = tensors(stress)
    trace = np.trace(tensor, axis1=1, axis2=2) / 3.0
    if mode == "full":
        left = tensor + pressure * _IDENTITY
    elif mode == "volume":
        left = trace + pressure
    elif mode == "shape":
        left = tensor - trace[:, None, None] * _IDENTITY
    else:
        left = _lattice_stress(cells, tensor) + pressure
    return np.asarray(np.abs(left.reshape(len(cells), -1)).max(axis=1))


def allowed(mode: CellMode, strain: Array) -> Array:
    """Projection of strain coordinates (S, 3, 3), or of their gradients, on those that are free."""
    if mode == "lengths":
        return strain * _IDENTITY
    symmetric = (strain + strain.transpose(0, 2, 1)) / 2.0
    if mode == "full":
        return np.asarray(symmetric)
    isotropic = np.trace(symmetric, axis1=1, axis2=2)[:, None, None] / 3.0 * _IDENTITY
    return isotropic if mode == "volume" else symmetric - isotropic


def deformations(mode: CellMode, start_cell: Array, strain: Array) -> Array:
    """Deformation D (S, 3, 3) with cell = start_cell D."""
    if mode == "lengths":
        factors = np.exp(np.diagonal(strain, axis1=1, axis2=2))
        return np.asarray(np.linalg.solve(start_cell, factors[:, :, None] * start_cell))
    values, vectors = np.linalg.eigh(strain)
    return np.asarray((vectors * np.exp(values)[:, None, :]) @ vectors.transpose(0, 2, 1))


def strain_gradients(mode: CellMode, strain: Array, cells: Array, stress: Array, pressure: float) -> Array:
    """Gradient of the enthalpy per volume by the strain coordinates (S, 3, 3) in eV/Å^3."""
    tensor = tensors(stress)
    if mode == "lengths":
        return (_lattice_stress(cells, tensor) + pressure)[:, :, None] * _IDENTITY
    values, vectors = np.linalg.eigh(strain)
    back = vectors.transpose(0, 2, 1)
    work = (tensor + pressure * _IDENTITY) @ ((vectors * np.exp(-values)[:, None, :]) @ back)
    half = (values[:, :, None] - values[:, None, :]) / 2.0
    mean = np.exp((values[:, :, None] + values[:, None, :]) / 2.0)
    # sinh(x)/x by its series near zero, to 1e-17
    ratio = np.where(
        np.abs(half) > 1e-2,
        np.sinh(half) / np.where(half == 0.0, 1.0, half),
        1.0 + half**2 / 6.0 + half**4 / 120.0,
    )
    symmetric = (work + work.transpose(0, 2, 1)) / 2.0
    return allowed(mode, vectors @ (mean * ratio * (back @ symmetric @ vectors)) @ back)


def _lattice_stress(cells: Array, tensor: Array) -> Array:
    """``(h sigma h^-1)_ii`` (S, 3)."""
    return np.asarray(np.einsum("sij,sji->si", cells @ tensor, np.linalg.inv(cells)))


def projectors(cells: Array, free: NDArray[np.bool_]) -> Array:
    """Orthogonal projectors (K, 3, 3) onto the span of the ``free`` (K, 3) rows of ``cells`` (K, 3, 3)."""
    spanning = cells * free[:, :, None]
    return np.asarray(np.linalg.pinv(spanning, rcond=1e-10) @ spanning)


def applied(matrices: Array, vectors: Array) -> Array:
    """``vectors[k] @ matrices[k]`` (K, 3)."""
    return np.asarray(np.einsum("kx,kxy->ky", vectors, matrices))
