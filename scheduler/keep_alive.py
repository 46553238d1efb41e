"""The idle timers of models, after which they are unloaded. Unloading itself is in models/model_loading.py."""

import math
from collections import Counter
from collections.abc import Callable

from scheduler.clock import TimerHandle, Timers


class KeepAlive:
    """The users and the idle timer of each model, by its name. A keep-alive of `math.inf` seconds never expires."""

    def __init__(self, timers: Timers, default_s: float, on_expired: Callable[[], object]) -> None:
        self._timers = timers
        self._default_s = default_s
        self._on_expired = on_expired
        self._wished_s: dict[str, float] = {}
        self._num_users: Counter[str] = Counter()
        self._idle_since_s: dict[str, float] = {}
        self._timer_of: dict[str, TimerHandle] = {}
        self._over: set[str] = set()
        """Models whose timer has expired. They are stored, because the clock may read slightly less than the timer's time."""

    def set_keep_alive(self, model: str, keep_alive_s: float | None, *, only_prolongs: bool = False) -> None:
        """Set the model's keep-alive and restart its idle timer. None keeps the current value, and so does a shorter value if
        `only_prolongs` is true.
        """
        if keep_alive_s is not None:
            self._wished_s[model] = max(keep_alive_s, self._duration_s(model)) if only_prolongs else keep_alive_s
        self.restart_idle_timer(model)

    def restart_idle_timer(self, model: str) -> None:
        """Restart the idle timer of a model without users."""
        self._stop_timer(model)
        if self._num_users[model]:
            return
        self._idle_since_s[model] = self._timers.time()
        duration_s = self._duration_s(model)
        if duration_s == 0:
            self._expire(model)
        elif duration_s < math.inf:
            self._timer_of[model] = self._timers.call_later(duration_s, lambda: self._expire(model))

    def reset_keep_alive(self, model: str) -> None:
        """Reset the keep-alive of an unloaded model to the default."""
        self._wished_s.pop(model, None)

    def add_users(self, model: str, num_users: int) -> None:
        self._num_users[model] += num_users
        self._stop_timer(model)

    def remove_user(self, model: str) -> None:
        """Note that one user of the model has left."""
        self._num_users[model] -= 1
        self.restart_idle_timer(model)

    def is_expired(self, model: str) -> bool:
        return model in self._over

    def idle_since_s(self, model: str) -> float:
        """Return the time at which the last user of the model left."""
        return self._idle_since_s.get(model, -math.inf)

    def expires_in_s(self, model: str) -> float:
        """Return the seconds until the model expires; while it is in use, its whole keep-alive."""
        if self._num_users[model] or model not in self._idle_since_s:
            return self._duration_s(model)
        return max(0.0, self._idle_since_s[model] + self._duration_s(model) - self._timers.time())

    def _expire(self, model: str) -> None:
        self._over.add(model)
        self._on_expired()

    def _duration_s(self, model: str) -> float:
        return self._wished_s.get(model, self._default_s)

    def _stop_timer(self, model: str) -> None:
        self._over.discard(model)
        timer = self._timer_of.pop(model, None)
        if timer is not None:
            timer.cancel()
