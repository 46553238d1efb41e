"""The `pagoda` command. Imports no tier: it starts them as processes."""
