"""Does a new version stay, and how much traffic does it meet next?

Evidence in, verdict out: pure, so that each decision can be computed again from its log, bit by bit. Who
counts, and who moves the traffic, is not known here.
"""
