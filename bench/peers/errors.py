"""The one thing that can go wrong with a server under comparison: it becomes a cell of the table, never the command's end."""

MAX_LINES = 6


class PeerError(Exception):
    """A peer cannot be installed, started or scored; the message is what the reader of the table sees."""

    @classmethod
    def from_output(cls, what: str, output: str) -> "PeerError":
        """With the last lines of what a process said: the reason is nearly always there."""
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return cls(f"{what}: {' | '.join(lines[-MAX_LINES:]) or 'it said nothing'}")
