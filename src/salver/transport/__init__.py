"""The rim: how do bytes get in and out, in time and within limits?

An ordinary ASGI application (``asgi.py``) over a table of routes (``routes.py``), HTTP answers
(``http.py``) and gRPC methods (``grpc.py``); ``server.py`` starts it on h2corn or uvicorn. It
owns deadlines, limits and hang-ups, and knows no tensor.
"""
