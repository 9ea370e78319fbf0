"""Data plane and control plane.

``dataplane.py`` answers the requests of every protocol, ``controlplane.py`` decides what is loaded, and
``bus.py`` carries events from both to observers.
"""
