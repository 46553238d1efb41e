"""A comparison of Pagoda with its peers: same requests, same machine, each server with its best settings."""
