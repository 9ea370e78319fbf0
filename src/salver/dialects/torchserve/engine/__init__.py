"""Engines that run TorchServe's handlers in worker processes."""
