"""Files with the shapes of public models and random weights, to measure memory, start and speed without a download."""
