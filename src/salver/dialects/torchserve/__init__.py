"""TorchServe: REST, gRPC, archives, handlers, metrics, configuration and command line."""
