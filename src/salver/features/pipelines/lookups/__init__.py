"""Sources of features that the step ``look-up`` asks, and the cache of their answers."""
