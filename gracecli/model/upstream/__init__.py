"""Readers of published models."""
