"""How is a model too large for one device spread over several, by libraries that may not be here?"""
