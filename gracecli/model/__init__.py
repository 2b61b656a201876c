"""The GRACE model: blueprint, mathematics, model files."""
