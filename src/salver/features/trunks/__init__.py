"""Shared trunks: cut ONNX models into the part that they share and a head each, as pipelines.

``graph`` finds and makes the cut (pure), ``checking`` runs both forms, ``files`` writes the folders.
"""
