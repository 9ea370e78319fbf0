"""Where does what go, how many, how large a batch?

``profile`` keeps what was measured of a model, ``search`` says what to measure next, ``choose`` makes a
setting of it that meets the owner's objective, ``roofline`` bounds what the machine could do at
best. ``mdp`` solves the batching decision exactly, ``qlearning`` learns it, ``training`` makes the tables of
both by which the server batches. All of it is pure: who measures is ``features/tuning/profiling.py``.
"""
