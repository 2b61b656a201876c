"""Model names, catalogs and the local model library."""
