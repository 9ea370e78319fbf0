"""Models on several machines.

``placement`` decides which replica runs on which node.
"""
