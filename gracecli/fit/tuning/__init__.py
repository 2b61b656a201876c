"""Fine-tuning: what of a model moves, from where, and what must not."""
