"""The error of a server under comparison. It becomes a cell of the table and does not end the command."""

MAX_LINES = 6


class PeerError(Exception):
    """Failure to install, start or score a peer. The message is shown in the table."""

    @classmethod
    def from_output(cls, what: str, output: str) -> "PeerError":
        """Return an error with the last lines of a process's output, which nearly always contain the reason."""
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return cls(f"{what}: {' | '.join(lines[-MAX_LINES:]) or 'no output'}")
