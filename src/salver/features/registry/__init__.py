"""Model registry: immutable versions with digests, and aliases that point to them.

Every move of an alias is recorded with author, time and reason. Its effect on traffic is up to releases.
"""
