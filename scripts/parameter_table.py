"""Write the README's parameter table anew from `glioma_pde.parameters.PARAMETERS`.

usage: python scripts/parameter_table.py [--check]

`--check` changes nothing and exits with 1 if the table is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from glioma_pde.parameters import PARAMETERS, Parameter  # noqa: E402

BEGIN, END = "<!-- parameter table: scripts/parameter_table.py -->", "<!-- end of parameter table -->"
README = ROOT / "README.md"


def table() -> str:
    """The table in Markdown; "assumption" and "recollected" stand out in the sources."""
    lines = ["| key | symbol | default | unit | range | meaning | source |", "|---|---|---|---|---|---|---|"]
    lines += [_row(key, p) for key, p in PARAMETERS.items()]
    return "\n".join(lines)


def _row(key: str, p: Parameter) -> str:
    source = p.source.replace("assumption", "**assumption**").replace("recollected", "**recollected**")
    cells = (f"`{key}`", p.symbol, f"{p.default:g}", p.unit, p.plausible, p.meaning, source)
    return "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"


def renewed(text: str) -> str:
    """The README with its table up to date.

    Raises:
        ValueError: if the two markers do not stand in it once each, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"{README.name} must hold the lines {BEGIN!r} and {END!r} once each.")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    text = README.read_text(encoding="utf-8")
    new = renewed(text)
    if new == text:
        return 0
    if "--check" in arguments:
        print("README.md: the parameter table is out of date; run python scripts/parameter_table.py", file=sys.stderr)
        return 1
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
