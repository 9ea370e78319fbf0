"""What TorchServe's worker and its server say to each other, as far as handlers take part in it."""
