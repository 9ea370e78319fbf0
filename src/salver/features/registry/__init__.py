"""Which versions of a model are there, what is known of them, and which one does a name mean?

Versions are immutable and have a digest; aliases move, and every move is written down with who, when and why.
What a move means for traffic is a release's business (``rollout/``).
"""
