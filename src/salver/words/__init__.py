"""Records shared by every part of Salver: errors, tensors, messages, artefacts, events. No I/O."""
