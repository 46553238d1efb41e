"""The `pagoda` command. It starts the tiers as processes and does not import them."""
