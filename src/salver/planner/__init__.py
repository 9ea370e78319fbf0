"""Where does what go, how many, how large a batch?

``profile`` keeps what was measured of a model, ``search`` says what to measure next, ``choose`` makes a
setting of it that meets the owner's objective, ``roofline`` bounds what the machine could do at
best. All of it is pure: who measures is ``serving/profiling.py``.
"""
