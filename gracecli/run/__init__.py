"""Runs: functions from structures and an engine to results."""
