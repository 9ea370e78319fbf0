"""Ensembles: graphs of models that answer as one."""
