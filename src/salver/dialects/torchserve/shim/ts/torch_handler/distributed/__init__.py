"""Handlers of models that are distributed over several devices."""
