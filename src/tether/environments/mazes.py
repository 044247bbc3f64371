"""Layouts of D4RL's mazes as rows of text: `#` is a wall, `.` is open (arXiv 2004.07219).

Its data sets have umaze, medium and large, which the ant and the point share; `open` and the `eval-` mazes are
those of D4RL's point mazes.
"""

from collections.abc import Iterator, Mapping

from tether.errors import unknown

__all__ = ["LAYOUTS", "cells", "layout"]

LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "open": ("#######", "#.....#", "#.....#", "#.....#", "#######"),
    "umaze": ("#####", "#...#", "###.#", "#...#", "#####"),
    "medium": ("########", "#..##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#..#", "########"),
    "large": (
        "############",
        "#....#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#...#",
        "############",
    ),
    "eval-umaze": ("#####", "#...#", "#.###", "#...#", "#####"),
    "eval-medium": ("########", "#......#", "#.#.##.#", "#....#.#", "###..###", "#......#", "#..##..#", "########"),
    "eval-large": (
        "############",
        "#..#...#...#",
        "##.###.#.#.#",
        "#..#.#.....#",
        "#.##.#..##.#",
        "#......#...#",
        "#.##.#.#.###",
        "#....#.....#",
        "############",
    ),
}


def layout(maze: str, choices: Mapping[str, object]) -> tuple[str, ...]:
    """The layout called `maze`. Raises InputError if it is not among `choices`."""
    if maze not in choices:
        raise unknown("maze", maze, choices)
    return LAYOUTS[maze]


def cells(rows: tuple[str, ...], kind: str) -> Iterator[tuple[int, int]]:
    """(row, column) of every cell of this kind, `#` or `.`, row by row."""
    return ((i, j) for i, row in enumerate(rows) for j, cell in enumerate(row) if cell == kind)
