"""Is a set of labelled structures fit to be trained on? Checks before ``grace fit``, see :mod:`.run`."""
