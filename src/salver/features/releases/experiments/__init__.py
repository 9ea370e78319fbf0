"""Assignment of requests to arms, and counting of what happens to them.

Assignment is a pure hash, so that nothing has to be stored; exposures and events are counted by unit. The
meaning of the counts is judged elsewhere.
"""
