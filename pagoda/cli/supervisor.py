"""Keeps the children of one `pagoda serve` running: starts them together, restarts one that dies, stops them in order."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from pagoda.cli.child import Child, ChildCommand, describe_exit
from pagoda.cli.logs import last_lines

RESTART_WINDOW_S = 60.0
LONGEST_DELAY_S = 8.0
# As many as make the delay the longest.
MAX_COUNTED_DEATHS = 6
LAST_LINES = 15


class ChildLostError(Exception):
    """A child ended while the system was starting."""


class Supervisor:
    """`run` until `stop`. Children are given in the order in which they are stopped."""

    def __init__(self, commands: Sequence[ChildCommand], *, say: Callable[[str], None], grace_s: float) -> None:
        self._commands = commands
        self._say = say
        self._grace_s = grace_s
        self._children: dict[str, Child] = {}
        self._settled = False
        self._stopping = False

    def settle(self) -> None:
        """All are ready: from now on a child that dies is restarted, however often: the others have requests that wait for
        it, or can do without it. Before, its end ends the start."""
        self._settled = True

    async def run(self) -> None:
        """Keep all children alive; raises ChildLostError when one cannot be started at first. Cancel it after `stop`."""
        try:
            async with asyncio.TaskGroup() as group:
                for command in self._commands:
                    group.create_task(self._keep_alive(command), name=f"keep-{command.name}-alive")
        except* ChildLostError as lost:
            # The first reason is the cause; the others lost their children because of it.
            raise lost.exceptions[0] from None

    async def stop(self) -> None:
        """One after the other, so that each can still talk to those it depends on while it ends."""
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
                # No process or no file could be made: for want of memory, of a place in a table, of space on the disk.
                if not self._settled:
                    raise ChildLostError(f"The {command.name} cannot be started: {error}") from None
                self._say(f"The {command.name} cannot be started ({error}); trying again in {LONGEST_DELAY_S:g} s.")
                await asyncio.sleep(LONGEST_DELAY_S)
                continue
            if self._stopping:  # `stop` went by while this one was being started.
                child.kill()
            code = await child.wait()
            if self._stopping:
                return
            if not self._settled:
                raise ChildLostError(
                    f"The {command.name} ended while starting ({describe_exit(code)}). {_last_words(child)}"
                )
            deaths.append(time.monotonic())
            delay_s = restart_delay_s(deaths)
            when = f" in {delay_s:g} s" if delay_s else ""
            why = f" {_last_words(child)}" if delay_s == LONGEST_DELAY_S else ""
            self._say(f"The {command.name} ended ({describe_exit(code)}); starting it again{when}.{why}")
            await asyncio.sleep(delay_s)


def _last_words(child: Child) -> str:
    lines = "\n".join(f"  {line}" for line in last_lines(child.command.log, LAST_LINES))
    return f"The end of {child.command.log}:\n{lines}"


def restart_delay_s(deaths: Sequence[float]) -> float:
    """Nothing after a first death, then half a second, doubling with each further death inside the window up to the longest."""
    recent = sum(1 for death in deaths if deaths[-1] - death <= RESTART_WINDOW_S)
    return 0.0 if recent == 1 else min(LONGEST_DELAY_S, 0.5 * 2.0 ** (recent - 2))
