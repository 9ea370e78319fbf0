"""Which arm is this request in, and what was seen of it?

Assignment is a pure hash, so that nothing has to be kept of it; exposures and events are counted by unit.
What the counts prove is not known here.
"""
