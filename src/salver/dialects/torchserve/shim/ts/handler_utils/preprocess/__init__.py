"""Preprocessing of inputs on a device."""
