"""Classical potentials as engines of gracecli."""
