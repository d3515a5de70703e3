"""The one error type whose message is meant for the user."""


class GliomaError(Exception):
    """A problem that the user can mend; its text says what is wrong, where, and what to do."""

    exit_code = 1


class Interrupted(GliomaError):
    """A run that was asked to stop: everything up to its last interval is saved and can be resumed."""

    exit_code = 130


class ConfigError(GliomaError):
    """Everything wrong with a configuration, all at once.

    Attributes:
        problems: one sentence for each problem, each starting with its path in the file.
    """

    exit_code = 2

    def __init__(self, problems: list[str], where: str = "configuration") -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{where}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  - {p}" for p in self.problems)]))
