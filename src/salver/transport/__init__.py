"""Sockets, HTTP and gRPC framing, limits, TLS and access checks.

An ASGI application (``asgi.py``) answers the HTTP routes (``routes.py``) and gRPC methods (``grpc.py``) of
all dialects; ``server.py`` opens the ports, and ``http1.py`` and ``http2.py`` speak to the connections. The
package owns deadlines, limits and disconnects. It knows no tensor and no dialect.
"""
