"""Print listings for people: in a terminal as wide as it is, in a pipe a whole line for each row.

Only free text, such as a prompt, is ever shortened. If a terminal is too narrow for the rest, columns are dropped, the
least useful first; the others are whole, and the terminal itself wraps them if it must.
rich is imported when something is laid out: `--json` does without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltx_client.protocol.text import shown
from ltx_client.shared.console.stdio import notice

if TYPE_CHECKING:
    from rich.segment import Segment
    from rich.table import Table
    from rich.text import Text

    from ltx_client.shared.console.rich_console import Console

__all__ = ["Column", "Listing", "print_facts", "print_table"]

GAP = 2
LEAST = 8
"""The least width of a free text, in cells, while another column can be dropped for it."""
LEAST_ROOM = 20
UNBOUNDED = 10**6


@dataclass(frozen=True)
class Column:
    """A column of a listing.

    Attributes:
        heading: Its first line.
        leave_out: The order in which columns are dropped when there is no room, the highest first; 0 is never dropped.
        is_free: Whether it is free text, which is shortened.
        wraps: Whether its text may have several lines.
    """

    heading: str
    leave_out: int = 0
    is_free: bool = False
    wraps: bool = False


class Listing:
    """Rows of cells below headings, to be fitted into a width."""

    def __init__(self, *columns: Column) -> None:
        self.columns = columns
        self.rows: list[tuple[Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row."""
        from rich.text import Text

        self.rows.append(tuple(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in cells))

    def left_out(self, width: int | None) -> list[str]:
        """Return the headings of columns that have content but are dropped at this width."""
        fitted = self._fitted(width)
        return [
            column.heading
            for place, column in enumerate(self.columns)
            if place not in fitted and not self._is_empty(place)
        ]

    def table(self, width: int | None) -> Table:
        """Return a table for rich.

        Args:
            width: The terminal's, in cells; None for no limit.
        """
        from rich.table import Table

        fitted = self._fitted(width)
        table = Table(box=None, pad_edge=False)
        for place, cells in fitted.items():
            column = self.columns[place]
            overflow = "ellipsis" if column.is_free else "fold"
            table.add_column(column.heading, width=cells, no_wrap=not column.wraps, overflow=overflow)  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(row[place] for place in fitted))
        return table

    def _fitted(self, width: int | None) -> dict[int, int]:
        """Return the width of each column in cells, by its index, without the dropped ones."""
        from rich.cells import cell_len

        full = [
            max([cell_len(column.heading), *(cell_len(row[place].plain) for row in self.rows)])
            for place, column in enumerate(self.columns)
        ]
        if width is None:
            return dict(enumerate(full))
        least = [
            min(cells, LEAST) if column.is_free or column.wraps else cells
            for cells, column in zip(full, self.columns, strict=True)
        ]
        chosen = self._chosen(least, width)
        fitted = {place: least[place] for place in chosen}
        room = width - _total(fitted.values())
        for place in sorted(chosen, key=lambda place: self.columns[place].is_free):
            more = max(0, min(room, full[place] - least[place]))
            fitted[place] += more
            room -= more
        return fitted

    def _is_empty(self, place: int) -> bool:
        return not any(row[place].plain.strip() for row in self.rows)

    def _chosen(self, least: list[int], width: int) -> list[int]:
        """Return the indices of the columns that are shown."""
        places = range(len(self.columns))
        optional = [place for place in places if self.columns[place].leave_out]
        chosen = {place for place in places if place not in optional}
        for place in sorted(optional, key=lambda place: (self._is_empty(place), self.columns[place].leave_out)):
            if _total([least[place], *(least[other] for other in chosen)]) <= width:
                chosen.add(place)
        return sorted(chosen)


def print_table(table: Listing | Table, *, stderr: bool = False) -> None:
    """Print a table for people, and on stderr which columns a narrow terminal has no room for.

    Args:
        table: The table.
        stderr: Whether to print the table on stderr too, since something else is written to stdout.
    """
    from rich.segment import Segments

    from ltx_client.shared.console.rich_console import Console

    console = Console(stderr=stderr)
    width = terminal_width(console)
    left_out: list[str] = []
    if isinstance(table, Listing):
        left_out = table.left_out(width)
        table = table.table(width)
    options = console.options.update(max_width=UNBOUNDED)
    needed = max(width or 0, console.measure(table, options=options).maximum)
    wide = Console(width=needed, stderr=stderr)
    segments = [segment for line in wide.render_lines(table, pad=False) for segment in _stripped(line)]
    wide.print(Segments(segments))
    if left_out:
        notice(f"not shown in {width} columns: {', '.join(left_out)}; use a wider terminal, a pipe or --json")


def print_facts(*blocks: Mapping[str, str], stderr: bool = False) -> None:
    """Print names with values, with an empty line between blocks; names with empty values are left out.

    A value of several words is wrapped in a terminal, but no word is divided, so that an id can be copied.

    Args:
        blocks: Names and values.
        stderr: Whether to print to stderr, since something else is written to stdout.
    """
    from rich.cells import cell_len
    from rich.text import Text

    from ltx_client.shared.console.rich_console import Console, styled

    console = Console(stderr=stderr)
    width = terminal_width(console)
    indent = max((cell_len(name) for block in blocks for name in block if block[name]), default=0) + GAP
    for number, block in enumerate(blocks):
        if number:
            console.print()
        for name, value in block.items():
            if not value:
                continue
            room = UNBOUNDED if width is None else max(LEAST_ROOM, width - indent)
            for place, line in enumerate(_wrapped(shown(value), room)):
                margin = styled(name if not place else "", "dim")
                margin.pad_right(indent - cell_len(margin.plain))
                console.print(Text.assemble(margin, line), soft_wrap=True)


def terminal_width(console: Console) -> int | None:
    """Return the columns of the terminal that a console writes to; None if that is not a terminal."""
    return console.width if console.file.isatty() else None


def _wrapped(text: str, room: int) -> list[str]:
    """Return the text in lines of at most `room` cells; a longer word has a line of its own."""
    from rich.cells import cell_len

    lines = [""]
    for word in re.findall(r"\s*\S+", text):
        if lines[-1] and cell_len(lines[-1]) + cell_len(word) > room:
            lines.append(word.lstrip())
        else:
            lines[-1] += word
    return lines


def _total(widths: Iterable[int]) -> int:
    cells = list(widths)
    return sum(cells) + GAP * (len(cells) - 1)


def _stripped(line: list[Segment]) -> list[Segment]:
    """Return a line without blanks at its end, which a narrower terminal would wrap, and with a line feed."""
    from rich.segment import Segment

    while line and not line[-1].text.strip():
        line = line[:-1]
    if line:
        line = [*line[:-1], line[-1]._replace(text=line[-1].text.rstrip())]
    return [*line, Segment.line()]
