"""The cache of keys and values in terms of integers: block hashes, page pools and the prefix index.

It imports no other package of the project.
"""
