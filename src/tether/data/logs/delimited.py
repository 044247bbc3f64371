"""CSV files as tables, as they come: other separators, decimal commas, no line of names, other encodings."""

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from tether.data.logs import pieces
from tether.data.logs.arrow import Leaf, arrow_pieces, holds, pyarrow_for
from tether.data.logs.numerals import DECIMAL_COMMA, Decimal, Numerals, numerals_of, without_thousands
from tether.data.logs.pieces import HEADER_BYTES, Column, Kind, Piece, Table, refuse_doubles
from tether.errors import InputError
from tether.machine.reading import one_line

__all__ = ["FLAGS", "Header", "open_csv"]

T = TypeVar("T")

Header = Literal["first", "none"]
"""Where the names of the columns stand: in the first line, or nowhere."""
MARKS = {",": "comma", ";": "semicolon", "\t": "tabulator", "|": "bar"}
FLAGS = {
    flag: [
        f"{space}{spelling}" for word in words for space in ("", " ") for spelling in (word, word.title(), word.upper())
    ]
    for flag, words in {True: ("1", "true", "yes", "t", "y"), False: ("0", "false", "no", "f", "n")}.items()
}
"""How flags are written; a space after the separator is common."""
LOOKED_AT = 50
"""Lines from which the separator is taken."""
ENCODINGS = "shift_jis, gb18030, big5, euc_kr, cp1251, cp1250, cp1252"
WESTERN = rb"\x80\x92-\x94\x96\xa0\xa9\xaa\xab\xae\xb0-\xb3\xb5\xb7\xba-\xff"
"""Of the bytes from 0x80 on those that are common in cp1252: letters, units, quotation marks, a dash, the euro."""
NOT_WESTERN = re.compile(rb"[\x80-\xff]{4}|[^\x00-\x7f%s]" % WESTERN)
"""Four such letters in a row, as in Cyrillic and Chinese words, or a byte that is none of them, as in Japanese."""
NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(nan|inf|infinity)\s*", re.IGNORECASE)


class Dialect(NamedTuple):
    """How a file is written."""

    names: list[str]
    lines: int  # before its first row
    start: int  # the byte of its first row, in UTF-8
    delimiter: str
    numerals: Numerals
    encoding: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it."""
        found = {
            f"the separator is a {MARKS[self.delimiter]}": self.delimiter != ",",
            "numbers have a decimal comma": self.numerals.decimal == ",",
            f"{self.numerals.thousands!r} separates thousands": self.numerals.thousands != "",
            f"the file is written in {self.encoding}": self.encoding != "utf-8",
        }
        return (", ".join(note for note, unusual in found.items() if unusual),) if any(found.values()) else ()


def open_csv(path: Path, header: Header = "first", decimal: Decimal = "auto", encoding: str | None = None) -> Table:
    """The table in a CSV file. Raises InputError as `open_table`, for a first line of numbers instead of names, and for
    numbers and text that can be read in two ways."""
    arrow = pyarrow_for(path)
    from pyarrow import csv as arrow_csv

    try:
        encoding = _encoding(path) if encoding is None else _asked_encoding(encoding)
        head = next(_text(path, HEADER_BYTES, encoding), b"")
        dialect = _dialect(path, head, header, decimal, encoding)
        names = dialect.names
        parse = arrow_csv.ParseOptions(delimiter=dialect.delimiter)
    except UnicodeError:
        raise _not_written_in(path, str(encoding)) from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {one_line(error)}") from None
    try:
        types = _types(arrow, arrow_csv, _first_rows(head, dialect), dialect, parse)
    except arrow.ArrowException as error:
        raise InputError(_fault(path, dialect, {}, one_line(error))) from None
    columns = {name: Leaf(Column(1, holds(arrow, type_)), name) for name, type_ in zip(names, types, strict=True)}

    def forced(name: str, kind: Kind) -> Any:
        """The type to read as, whatever the first block looks like."""
        type_, found = types[names.index(name)], columns[name].column.holds
        number = arrow.float32() if kind in ("float32", "float32?") else arrow.float64()
        if kind in ("label", "flag", "flag?") and arrow.types.is_floating(type_):
            return number  # 1.0 where 1 is meant
        if kind in ("label", "text") or (kind in ("stored", "order") and found == "text"):
            return arrow.string()
        if kind in ("flag", "flag?") or found == "flags":
            return arrow.bool_()  # 0 and 1, true and false
        return type_ if found == "times" else number

    def read(kinds: Mapping[str, Kind], piece_bytes: int | None = None) -> Iterator[Piece]:
        wanted = {name: forced(name, kind) for name, kind in kinds.items()}
        convert = arrow_csv.ConvertOptions(
            column_types=wanted,
            include_columns=list(wanted),
            decimal_point=dialect.numerals.decimal,
            true_values=FLAGS[True],
            false_values=FLAGS[False],
        )
        given = arrow_csv.ReadOptions(column_names=names)

        def batches() -> Iterator[Any]:
            """Arrow's reader of whole tables uses every core, its streaming one a single core."""
            for block in _whole_lines(path, dialect, piece_bytes or pieces.PIECE_BYTES):
                source = arrow.py_buffer(block)
                table = arrow_csv.read_csv(source, read_options=given, parse_options=parse, convert_options=convert)
                yield from table.combine_chunks().to_batches()

        try:
            yield from arrow_pieces(arrow, path, _ahead(batches()), kinds, columns)
        except UnicodeError:
            raise _not_written_in(path, dialect.encoding) from None
        except arrow.ArrowException as error:
            raise InputError(_fault(path, dialect, kinds, one_line(error))) from None

    return Table(path, {name: leaf.column for name, leaf in columns.items()}, read, notes=dialect.notes)


# --- how it is written --------------------------------------------------------------------------------------


def _dialect(path: Path, head: bytes, header: Header, decimal: Decimal, encoding: str) -> Dialect:
    text = head.decode("utf-8", errors="ignore")
    lines = list(itertools.islice(io.StringIO(text, newline=""), LOOKED_AT + 1))
    if not text.strip():
        raise InputError(f"{path} cannot be read as CSV: it is empty")
    if len(head) >= HEADER_BYTES and len(lines) < 2:
        raise InputError(f"{path} cannot be read as CSV: its first line has more than {len(head):,} bytes")
    comments = sum(1 for _ in itertools.takewhile(lambda line: line.startswith("#"), lines))
    delimiter = _delimiter(lines[comments:])
    named = _commented_names(lines, comments, delimiter) if comments and header == "first" else None
    skipped = comments
    if named is None:
        reader = csv.reader(io.StringIO("".join(lines[comments:])), delimiter=delimiter)
        named = [name.strip() for name in next(reader, [])]
        skipped += reader.line_num if header == "first" else 0
    if header == "none":
        named = [f"c{number}" for number in range(len(named))]
    elif all(NUMBER.fullmatch(name) for name in named) and named != [str(number) for number in range(len(named))]:
        raise InputError(
            f"{path}: its first line holds numbers ({', '.join(named[:4])}{', ...' if len(named) > 4 else ''}), not "
            "the columns' names; say so: --header none, and the columns are called c0, c1, ..."
        )
    refuse_doubles(path, named)
    start = len("".join(lines[:skipped]).encode())
    numerals = numerals_of(str(path), text, delimiter, decimal)
    return Dialect(named, skipped, start, delimiter, numerals, encoding)


def _encoding(path: Path) -> str:
    """UTF-8 where it is that; UTF-16 and UTF-32 by their marks; else Windows' of western Europe, if its text then reads
    like that. Raises InputError where it does not."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if head[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):  # the former begins as UTF-16's does
        return "utf-32"
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if head[:3] == codecs.BOM_UTF8:
        return "utf-8"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        if any(NOT_WESTERN.search(line) for line in head.splitlines()):
            raise _not_written_in(path, "UTF-8 or cp1252 (western Europe)") from None
        return "cp1252"
    return "utf-8"


def _asked_encoding(name: str) -> str:
    """Python's name of an encoding. Raises InputError where it knows none."""
    try:
        b"".decode(name)
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise InputError(f"--encoding {name!r}: no encoding that Python knows; such as {ENCODINGS}") from None
    return "utf-8" if found == "utf-8-sig" else found  # its mark is left out


def _not_written_in(path: Path, encoding: str) -> InputError:
    return InputError(
        f"{path} cannot be read as CSV: its text is not written in {encoding}; say how it is: tether data import "
        f"--encoding NAME, such as {ENCODINGS}"
    )


def _delimiter(lines: list[str]) -> str:
    """The mark with which most lines have as many cells, of these the one that leaves most numbers, then most cells."""

    def merit(mark: str) -> tuple[float, float, int]:
        try:
            rows = list(csv.reader(lines, delimiter=mark))
        except csv.Error:  # a cell that is longer than any cell: no such mark in the line
            return 0.0, 0.0, 0
        rows = [row for row in rows[:LOOKED_AT] if row]
        width = len(rows[0]) if rows else 0
        if width < 2:
            return 0.0, 0.0, 0
        cells = [cell for row in rows[1:] or rows for cell in row]
        numbers = sum(NUMBER.fullmatch(cell) is not None for cell in cells)
        return sum(len(row) == width for row in rows) / len(rows), numbers / max(1, len(cells)), width

    return max(MARKS, key=merit)


def _commented_names(lines: list[str], comments: int, delimiter: str) -> list[str] | None:
    """The names in the last of the first lines that begin with #, as NumPy writes them, if they are that."""
    rest = lines[comments].strip() if comments < len(lines) else ""
    names = [name.strip() for name in lines[comments - 1].lstrip("# ").strip().split(delimiter)]
    cells = rest.split(delimiter)
    return names if len(cells) == len(names) and NUMBER.fullmatch(cells[0]) else None


def _types(arrow: Any, arrow_csv: Any, rows: bytes, dialect: Dialect, parse: Any) -> list[Any]:
    """The types that Arrow takes the columns of the first rows for."""
    if not rows.strip():
        return [arrow.null()] * len(dialect.names)
    given = arrow_csv.ReadOptions(column_names=dialect.names, block_size=2 * HEADER_BYTES)
    convert = arrow_csv.ConvertOptions(decimal_point=dialect.numerals.decimal)
    source = arrow.py_buffer(rows)
    return arrow_csv.read_csv(source, read_options=given, parse_options=parse, convert_options=convert).schema.types


def _first_rows(head: bytes, dialect: Dialect) -> bytes:
    """Those in `head`, without the last one where it may be cut."""
    rows = head[dialect.start :]
    rows = rows if len(head) < HEADER_BYTES else rows[: rows.rfind(b"\n") + 1] or rows
    return without_thousands(rows, dialect.delimiter, dialect.numerals)


# --- its bytes ----------------------------------------------------------------------------------------------


def _text(path: Path, size: int, encoding: str) -> Iterator[bytes]:
    """The file in blocks of about `size` bytes of UTF-8, without a byte order mark."""
    with path.open("rb") as file:
        if encoding == "utf-8" and file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        reader: Any = file if encoding == "utf-8" else codecs.EncodedFile(file, "utf-8", encoding)
        while block := reader.read(size):
            yield block


def _whole_lines(path: Path, dialect: Dialect, size: int) -> Iterator[bytes]:
    """The rows in blocks of about `size` bytes that end with a line; a longer line makes a longer block."""
    rest, skipped = b"", dialect.start
    for block in _text(path, size, dialect.encoding):
        if skipped:
            block, skipped = block[skipped:], max(0, skipped - len(block))
        end = block.rfind(b"\n") + 1
        if end and (lines := rest + block[:end]).strip():
            yield without_thousands(lines, dialect.delimiter, dialect.numerals)
        rest = block[end:] if end else rest + block
    if rest.strip():
        yield without_thousands(rest, dialect.delimiter, dialect.numerals)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in another thread while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _fault(path: Path, dialect: Dialect, kinds: Mapping[str, Kind], error: str) -> str:
    """Arrow tells the column's number and the entry; which row it is in has to be looked for."""
    if ragged := re.match(r"CSV parse error: Expected (\d+) columns, got (\d+)", error):
        row = next((row for row, cells in _cells(path, dialect) if len(cells) == int(ragged[2])), None)
        place = "a row has" if row is None else f"row {row} has"
        return f"{path}: {place} {ragged[2]} cells, where the columns are {ragged[1]}"
    found = re.match(r"In CSV column #(\d+): .*conversion error to [^:]+: invalid value '(.*)'$", error)
    if not found:
        return f"{path}: {error}"
    column, entry = int(found[1]), found[2]
    name = dialect.names[column]
    rows = (
        row for row, cells in _cells(path, dialect) if column < len(cells) and cells[column].strip() == entry.strip()
    )
    row = next(rows, None)
    place = "" if row is None else f" in row {row}"
    if kinds.get(name) in ("flag", "flag?"):
        needed = "a flag is needed there: 0 or 1, true or false, yes or no"
    elif DECIMAL_COMMA.fullmatch(entry):
        needed = (
            "a number is needed there, and the first ones have a decimal point; say --decimal comma if all have one"
        )
    else:
        needed = "which is not what is needed there"
    return f"{path}: column {name!r} holds {entry!r}{place}, {needed}"


def _cells(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(number of the row, its cells) of all rows, read anew."""
    with path.open(newline="", encoding=dialect.encoding, errors="replace") as file:
        yield from enumerate(csv.reader(itertools.islice(file, dialect.lines, None), delimiter=dialect.delimiter))
