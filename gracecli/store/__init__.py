"""The HDF5 structure store: see :mod:`gracecli.store.schema` for the file and :class:`gracecli.store.store.Store`."""
