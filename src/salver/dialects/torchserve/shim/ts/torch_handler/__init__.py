"""Built-in handlers, which archives name or handlers derive from.

TorchServe's, with its names and answers (TS-A4, TS-A5). They get a context and a batch of decoded requests;
wires, queues and processes are not known here.
"""
