"""GRACE interatomic potentials from one command."""
