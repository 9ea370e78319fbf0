"""How are inputs prepared on a device, before the model?"""
