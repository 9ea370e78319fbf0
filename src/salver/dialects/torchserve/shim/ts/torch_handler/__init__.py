"""Which handlers may an archive name, or build on, that brings none of its own?

TorchServe's, by its names and with its answers (TS-A4, TS-A5). They know a context and a batch of decoded
requests; nothing of wires, queues or processes.
"""
