"""Which handlers serve models that are spread over several devices?"""
