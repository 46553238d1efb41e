"""Pagoda beside its peers: the same requests, the same machine, each server with its best settings, one table."""
