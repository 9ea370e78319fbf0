"""How do bytes become words, and words bytes?

One codec a protocol, each pure: no socket, clock or loaded model.

* ``oip_json``, ``oip_binary``, ``large_json`` — Open Inference over HTTP, with binary tensors
* ``oip_grpc``, ``grpc_schema``, ``grpc_frames`` — the same over gRPC
* ``tfs_json``, ``tfs_head_json``, ``tfs_status`` — TensorFlow Serving's REST interface, KServe v1's too
* ``rapid_json``, ``tfs_tensors``, ``tfs_large``, ``tfs_examples`` — its requests: text, tensors, examples
* ``tfs_layout``, ``decimals``, ``json_shown`` — its answers: lines, numbers, values in errors
* ``values``, ``json_text`` — JSON elements and text, for all of them
* ``faults`` — what each protocol calls each error
* ``metadata``, ``traceparent``, ``compression`` — what stands around a request
* ``bodies`` — the records between transports and codecs
"""
