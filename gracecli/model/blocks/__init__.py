"""TensorFlow blocks, one per blueprint node type."""
