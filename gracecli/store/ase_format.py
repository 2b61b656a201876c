"""Tells ASE about stores (entry point group ``ase.ioformats``); imported with ``ase.io``, so light."""

from ase.utils.plugins import ExternalIOFormat

store_format = ExternalIOFormat(desc="gracecli structure store", code="+S", module="gracecli.store.ase_io", ext="h5")
