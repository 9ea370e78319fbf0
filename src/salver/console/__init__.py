"""What do people see in a browser?

Static pages over the server's own interface: no build, nothing from elsewhere, usable offline.
"""
