"""What is wrong with an evaluation before it starts, told all at once."""

from __future__ import annotations

from setok.errors import ConfigError, SetokError


class Problems:
    """What is wrong, gathered."""

    def __init__(self) -> None:
        self._found: list[SetokError] = []

    def add(self, error: SetokError) -> None:
        """Note a problem, once."""
        if str(error) not in map(str, self._found):
            self._found.append(error)

    def settle(self) -> None:
        """Go on if nothing was noted.

        Raises:
            SetokError: the one problem that there is.
            ConfigError: several; each is told with what to do about it.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            listed = "".join(f"\n  - {error.problem}\n      → {error.remedy}" for error in self._found)
            raise ConfigError(
                f"the evaluation cannot start, {len(self._found)} things are wrong:{listed}", "mend them all"
            )
