"""The supervisor of `pagoda serve`. It starts the child processes together, restarts one that dies, and stops them in order."""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from pagoda.cli.child import Child, ChildCommand, describe_exit
from pagoda.cli.logs import last_lines
from pagoda.process.oom_kills import KillWatch

RESTART_WINDOW_S = 60.0
LONGEST_DELAY_S = 8.0
# After this many deaths the delay is the longest.
MAX_COUNTED_DEATHS = 6
LAST_LINES = 15
MEMORY_ADVICE = (
    "To need less memory, serve a smaller model, set a smaller --kv-memory, or start fewer workers (--workers); or stop other "
    "programs, or raise the container's limit."
)


class ExplainsKills(Protocol):
    def explain(self) -> str | None:
        """Return why a child got a SIGKILL, if memory was the reason."""


class ChildLostError(Exception):
    """A child ended while the system was starting."""


class Supervisor:
    """A group of child processes, given in the order in which they are stopped."""

    def __init__(
        self,
        commands: Sequence[ChildCommand],
        *,
        say: Callable[[str], None],
        grace_s: float,
        kills: ExplainsKills | None = None,
    ) -> None:
        self._commands = commands
        self._say = say
        self._grace_s = grace_s
        self._kills: ExplainsKills = kills or KillWatch()
        self._children: dict[str, Child] = {}
        self._settled = False
        self._stopping = False

    def settle(self) -> None:
        """Mark all children as ready. From now on a child that dies is restarted, without limit, because the others can wait
        for it or work without it. Before, the death of a child makes `run` fail."""
        self._settled = True

    async def run(self) -> None:
        """Keep all children running. Raises ChildLostError if one dies before `settle`. Cancel the task after `stop`."""
        try:
            async with asyncio.TaskGroup() as group:
                for command in self._commands:
                    group.create_task(self._keep_alive(command), name=f"keep-{command.name}-alive")
        except* ChildLostError as lost:
            # The first error is the cause; the other children were lost because of it.
            raise lost.exceptions[0] from None

    async def stop(self) -> None:
        """Stop the children one after the other, so that each can still reach those that it depends on."""
        self._stopping = True
        for command in self._commands:
            child = self._children.get(command.name)
            if child is not None:
                await child.stop(self._grace_s)

    def kill(self) -> None:
        self._stopping = True
        for child in self._children.values():
            child.kill()

    async def _keep_alive(self, command: ChildCommand) -> None:
        deaths: deque[float] = deque(maxlen=MAX_COUNTED_DEATHS)
        while not self._stopping:
            try:
                child = self._children[command.name] = await Child.start(command)
            except OSError as error:
                # The machine lacks memory, process slots, file descriptors or disk space.
                if not self._settled:
                    raise ChildLostError(f"The {command.name} could not be started: {error}") from None
                self._say(f"The {command.name} could not be started ({error}); retrying in {LONGEST_DELAY_S:g} s.")
                await asyncio.sleep(LONGEST_DELAY_S)
                continue
            if self._stopping:  # `stop` ran while this child was being started.
                child.kill()
            code = await child.wait()
            if self._stopping:
                return
            why = self._kills.explain() if code == -signal.SIGKILL else None
            end, advice = describe_exit(code), ""
            if why is not None:
                end, advice = f"{end}: {why}", f" {MEMORY_ADVICE}"
            if not self._settled:
                raise ChildLostError(f"The {command.name} exited while starting ({end}).{advice} {_last_words(child)}")
            deaths.append(time.monotonic())
            delay_s = restart_delay_s(deaths)
            when = f" in {delay_s:g} s" if delay_s else ""
            details = f" {_last_words(child)}" if delay_s == LONGEST_DELAY_S else ""
            self._say(f"The {command.name} exited ({end}); restarting it{when}.{advice}{details}")
            await asyncio.sleep(delay_s)


def _last_words(child: Child) -> str:
    lines = last_lines(child.command.log, LAST_LINES)
    # Lines before the error are about the start, and one of them lists all settings.
    first = next((index for index, line in enumerate(lines) if " ERROR " in line), 0)
    shown = "\n".join(f"  {line}" for line in lines[first:])
    return f"Last lines of {child.command.log}:\n{shown}"


def restart_delay_s(deaths: Sequence[float]) -> float:
    """Return the delay before a restart: 0 s after one death within the window, then 0.5 s, doubled for each further death."""
    recent = sum(1 for death in deaths if deaths[-1] - death <= RESTART_WINDOW_S)
    return 0.0 if recent == 1 else min(LONGEST_DELAY_S, 0.5 * 2.0 ** (recent - 2))
