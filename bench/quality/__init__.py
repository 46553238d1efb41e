"""The quality of numeric modes on a fixed text, measured with the worker's model code or over a server's API."""
