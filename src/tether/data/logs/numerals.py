"""How the numbers of a CSV file are written: 0.5 or 0,5; 1,201.5 or 1.201,5."""

import re
from typing import Literal, NamedTuple

from tether.errors import InputError

__all__ = ["DECIMAL_COMMA", "Decimal", "Numerals", "numerals_of", "without_thousands"]

Decimal = Literal["auto", "point", "comma"]
"""What stands before the fraction; auto: as the file's numbers tell."""
MARKS = {"point": (".", ","), "comma": (",", ".")}
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")


class Numerals(NamedTuple):
    """The mark before the fraction, and the one between groups of three digits; empty where no number has any."""

    decimal: str
    thousands: str = ""


def numerals_of(where: str, text: str, delimiter: str, asked: Decimal = "auto") -> Numerals:
    """Of the numbers in `text`, the beginning of a file. Where commas separate, only a quoted cell can hold one.

    Raises InputError where they can be read in two ways: "1,201" is 1201 or 1.201.
    """
    found = _numbers(text, delimiter)
    if asked != "auto":
        decimal, other = MARKS[asked]
        return Numerals(decimal, other if any(_grouped(cell, other, decimal) for cell in found) else "")
    commas, points = ({cell for cell in found if mark in cell} for mark in ",.")
    if not commas and delimiter == ";" and points and all(_grouped(cell, ".", ",") for cell in points):
        raise _ambiguous(where, min(points), ".")  # semicolons are there because numbers have commas
    if not commas:
        return Numerals(".")
    # Marks of both kinds, or the same mark twice: what stands first separates thousands.
    sure = {
        name: {cell for cell in commas if _grouped(cell, other, decimal) and (decimal in cell or cell.count(other) > 1)}
        for name, (decimal, other) in MARKS.items()
    }
    fraction = {cell for cell in commas if DECIMAL_COMMA.fullmatch(cell) and not _grouped(cell, ",", ".")}
    points = {cell for cell in points - commas if re.fullmatch(r"[+-]?\d*\.\d+", cell) and not _grouped(cell, ".", ",")}
    if sure["comma"] or fraction:
        return Numerals(",", "." if any(_grouped(cell, ".", ",") for cell in found) else "")
    if sure["point"] or points:
        return Numerals(".", "," if any(_grouped(cell, ",", ".") for cell in commas) else "")
    if delimiter == ";":  # which is there because commas are taken
        return Numerals(",")
    raise _ambiguous(where, min(commas), ",")


def _ambiguous(where: str, example: str, mark: str) -> InputError:
    """A number with one mark before three digits."""
    whole, fraction = example.replace(mark, ""), example.replace(mark, ".")
    ways = ("point", "comma") if mark == "," else ("comma", "point")
    return InputError(
        f"{where}: {example!r} may be {whole} or {fraction}: say which, --decimal {ways[0]} or --decimal {ways[1]}"
    )


def without_thousands(block: bytes, delimiter: str, numerals: Numerals) -> bytes:
    """The same rows, numbers without marks between groups of digits."""
    if not numerals.thousands:
        return block
    mark, decimal = re.escape(numerals.thousands), re.escape(numerals.decimal)
    number = rf"(?m)({_edge(delimiter)})(\s*[+-]?[1-9]\d{{0,2}}(?:{mark}\d{{3}})+)"
    number += rf"(?=(?:{decimal}\d*)?\s*{_end(delimiter)})"
    nothing, old = b"", numerals.thousands.encode()
    return re.sub(number.encode(), lambda found: found[1] + found[2].replace(old, nothing), block)


def _numbers(text: str, delimiter: str) -> set[str]:
    """Cells of digits, points and commas, without exponents."""
    end = _end(delimiter)
    cell = rf"(?m)(?:{_edge(delimiter)})\s*([+-]?[\d.,]*\d[\d.,]*)(?:[eE][+-]?\d+)?\s*{end}"
    found = set(re.findall(cell, text))
    if delimiter == ",":  # no comma is in a cell without quotation marks
        found |= set(re.findall(rf"(?m)(?:^|,)\s*([+-]?\d*\.\d+)\s*{end}", text))
    return found


def _edge(delimiter: str) -> str:
    """What stands before a cell that may hold a comma."""
    return '"' if delimiter == "," else rf'["{re.escape(delimiter)}]|^'


def _end(delimiter: str) -> str:
    """What stands behind a cell."""
    return rf'(?=["\r\n{re.escape(delimiter)}]|\Z)'


def _grouped(cell: str, mark: str, decimal: str) -> bool:
    """Whether `mark` stands between groups of three digits: 1,201 and 12,345,678.9, not 0,123."""
    pattern = rf"[+-]?[1-9]\d{{0,2}}({re.escape(mark)}\d{{3}})+({re.escape(decimal)}\d*)?"
    return re.fullmatch(pattern, cell) is not None
