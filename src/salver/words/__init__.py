"""Records that every part of Salver shares: errors, tensors, messages, artefacts, events. No I/O."""
