"""The forms in which models write reasoning and tool calls: one description per format, and the choice of a model's description."""
