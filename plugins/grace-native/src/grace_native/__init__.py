"""Compiled CPU engine for gracecli: GRACE models without TensorFlow."""
