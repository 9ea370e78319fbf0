"""Quality of models on labelled rows: calibration of their scores, and accuracy beside cost.

``salver calibrate`` fits the parameters of the step ``calibrate``, ``salver evaluate`` compares pipelines.
Both run without a server.
"""
