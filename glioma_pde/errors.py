"""The one error type whose message is meant for the user."""

_LONGEST = 600
_MOST = 1000


def one_line(text: str, limit: int = _LONGEST) -> str:
    """``text`` for a terminal: what would move its cursor is escaped, and the middle of a long one left out."""
    if len(text) > limit:
        text = f"{text[: limit - limit // 4]} … {text[-(limit // 4) :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class GliomaError(Exception):
    """A problem that the user can mend; its text says what is wrong, where, and what to do."""

    exit_code = 1


class Interrupted(GliomaError):
    """A run that was asked to stop: everything up to its last interval is saved and can be resumed."""

    exit_code = 130


class ConfigError(GliomaError):
    """Everything wrong with a configuration, all at once.

    Attributes:
        problems: one sentence for each problem, each starting with its path in the file; of more than a
            thousand, the first.
    """

    exit_code = 2

    def __init__(self, problems: list[str], where: str = "configuration") -> None:
        count = len(problems)
        self.problems = [one_line(p) for p in problems[:_MOST]]
        head = f"{one_line(where)}: {count} problem{'s' if count != 1 else ''}"
        if count > _MOST:
            head += f", of which the first {_MOST} are"
        super().__init__("\n".join([head, *(f"  - {p}" for p in self.problems)]))
