"""Plugin interface: typed specs, hooks, manager."""
