"""How do bytes become words, and words bytes?

One codec a protocol, each pure: no socket, clock or loaded model.

* ``oip_json``, ``oip_binary``, ``large_json`` — Open Inference over HTTP, with binary tensors
* ``oip_grpc``, ``grpc_schema``, ``grpc_frames`` — the same over gRPC
* ``kserve_v1`` — KServe v1 and TensorFlow Serving's predict
* ``values``, ``json_text`` — JSON elements and text, for all of them
* ``faults`` — what each protocol calls each error
* ``metadata``, ``traceparent``, ``compression`` — what stands around a request
* ``bodies`` — the records between transports and codecs
"""
