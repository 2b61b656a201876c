"""Which models cover given elements: those on this machine, then the published ones."""

from __future__ import annotations

from collections.abc import Sequence

from gracecli.registry.catalog import published_models

MOST_PUBLISHED = 3


def local_models_covering(symbols: Sequence[str]) -> list[str]:
    """Names of bundled and library models that cover all ``symbols``."""
    from gracecli.registry.summary import Summary, summaries

    wanted = set(symbols)
    return [s.name for s in summaries() if isinstance(s, Summary) and wanted <= set(s.elements)]


def models_covering(symbols: Sequence[str]) -> list[str]:
    """Names of models that cover all ``symbols``.

    Parameters
    ----------
    symbols : sequence of str

    Returns
    -------
    list of str
        Models on this machine first, then published foundation models; those whose elements are not stated are left
        out.
    """
    wanted = set(symbols)
    published = [m.name for m in published_models().values() if m.elements is not None and wanted <= set(m.elements)]
    local = local_models_covering(symbols)
    return local + [name for name in published if name not in local]


def suggest_models(symbols: Sequence[str]) -> list[str]:
    """Names for an error message: the models here, or else a few published ones, with a remark behind the last."""
    local = local_models_covering(symbols)
    if local:
        return local
    published = models_covering(symbols)
    # one of each kind: the rest of the catalog are variants of these
    few = [name for name in published if name.endswith("-OMAT")] or published
    few = few[:MOST_PUBLISHED]
    return few[:-1] + [f"{name} (published, not on this machine)" for name in few[-1:]]
