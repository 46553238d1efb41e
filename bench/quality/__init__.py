"""What numeric modes cost in quality, on one fixed text: from inside (worker's model code) or over a server's API."""
