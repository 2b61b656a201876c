"""Neighbour lists, graphs, batches, engines, the ASE calculator."""
