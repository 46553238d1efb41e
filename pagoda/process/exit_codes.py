"""Exit codes with a meaning of their own, for whoever starts the processes."""

DEVICE_LOST = 70
"""A worker whose device computes nothing more in that process: a new process finds it usable again."""

MEANINGS = {DEVICE_LOST: "its device was lost"}
