"""Planes: how does one request pass through, and what does one tick change?

``dataplane.py`` is the one door for every protocol, ``controlplane.py`` one tick of the wanted
state, ``bus.py`` the road of events from both to their observers.
"""
