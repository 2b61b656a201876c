"""Models in other formats: written, evaluated, compared, and only then handed over."""
