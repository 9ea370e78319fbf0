"""Pure statistics: sketches, intervals, tests. No clock, no I/O."""
