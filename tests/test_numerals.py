"""Numbers and flags of CSV files as people's programs write them; what can be read in two ways is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tether.data import load_dataset
from tether.data.logs.columns import ColumnOptions
from tether.data.logs.importing import import_logs
from tether.data.logs.numerals import Numerals, numerals_of, without_thousands
from tether.errors import InputError


@pytest.mark.parametrize(
    ("delimiter", "text", "expected"),
    [
        (";", "1.201,5;0,3\n12.345,25;-1,0e3\n", ("1201,5;0,3\n12345,25;-1,0e3\n", Numerals(",", "."))),
        (";", "1.201;0,3\n", ("1201;0,3\n", Numerals(",", "."))),
        (";", "1,201;1,500\n", ("1,201;1,500\n", Numerals(","))),  # a semicolon is there because commas are taken
        (";", "0.5;1.25\n", ("0.5;1.25\n", Numerals("."))),
        (";", "01.02.2024;0,5\n", ("01.02.2024;0,5\n", Numerals(","))),
        (",", '"1,201",0.1\n"-1,202",0.2\n', ('"1201",0.1\n"-1202",0.2\n', Numerals(".", ","))),
        (",", '"1,234,567",3\n', ('"1234567",3\n', Numerals(".", ","))),
        (",", '"1,201.5",3\n', ('"1201.5",3\n', Numerals(".", ","))),
        (",", '"0,5","1,500"\n', ('"0,5","1,500"\n', Numerals(","))),
        (",", "1,200,3\n", ("1,200,3\n", Numerals("."))),
        ("\t", "0,123\t1,500\n", ("0,123\t1,500\n", Numerals(","))),
    ],
)
def test_how_numbers_are_written(delimiter: str, text: str, expected: tuple[str, Numerals]) -> None:
    found = numerals_of("log.csv", text, delimiter)
    assert (without_thousands(text.encode(), delimiter, found).decode(), found) == expected


@pytest.mark.parametrize(("delimiter", "text"), [(",", '"1,201","1,500"\n'), ("\t", "1,201\t1,500\n")])
def test_what_may_mean_two_things_is_asked(delimiter: str, text: str) -> None:
    with pytest.raises(InputError, match=r"log.csv: '1,201' may be 1201 or 1.201: say which, --decimal point or"):
        numerals_of("log.csv", text, delimiter)
    assert numerals_of("log.csv", text, delimiter, "comma") == Numerals(",")
    assert numerals_of("log.csv", text, delimiter, "point") == Numerals(".", ",")


def test_points_before_three_digits_beside_semicolons_are_asked_about() -> None:
    """A German file without fractions; the numbers below a thousand have no mark at all."""
    with pytest.raises(
        InputError, match=r"'1.000' may be 1000 or 1.000: say which, --decimal comma or --decimal point"
    ):
        numerals_of("log.csv", "990;0\n1.000;0\n1.005;1\n", ";")
    assert numerals_of("log.csv", "990;0\n1.000;0\n", ";", "comma") == Numerals(",", ".")
    assert numerals_of("log.csv", "990;0\n1.000;0.25\n", ";") == Numerals(".")
    assert numerals_of("log.csv", "990;0\n0.512;0\n", ";") == Numerals(".")


def imported(folder: Path, text: str, **options: Any) -> Any:
    path = folder / "log.csv"
    path.write_text(text, encoding="utf-8")
    plan = ColumnOptions(("x",), ("u",), reward="r", **options)
    import_logs([path], plan, folder / "out.hdf5")
    return load_dataset(str(folder / "out.hdf5"))


def test_thousands_are_read_in_a_file(tmp_path: Path) -> None:
    rows = "".join(f"{1200 + i:,};{i / 10};0\n".replace(",", "'").replace(".", ",").replace("'", ".") for i in range(9))
    data = imported(tmp_path, "x;u;r\n" + rows, episode="none")
    np.testing.assert_allclose(data.observations[:, 0], 1200 + np.arange(9))
    np.testing.assert_allclose(data.actions[:, 0], np.arange(9) / 10, atol=1e-6)


@pytest.mark.parametrize(
    ("no", "yes"), [("0", "1"), (" 0", " 1"), ("no", "yes"), (" No", " Yes"), ("f", "t"), ("FALSE", "TRUE"), ("N", "Y")]
)
def test_flags_as_people_write_them(no: str, yes: str, tmp_path: Path) -> None:
    rows = "".join(f"{i / 7}, {i % 3 / 3}, 1,{yes if i in (3, 8) else no}\n" for i in range(9))
    data = imported(tmp_path, "x, u, r, d\n" + rows, terminal="d")
    assert np.flatnonzero(data.terminals).tolist() == [3, 8]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0.1,0.2,1,ja\n", "column 'd' holds 'ja' in row 0, a flag is needed there: 0 or 1, true or false, yes or no"),
        ("0.1,0.2,1,0\n0.1,0.3,1\n", "row 1 has 3 cells, where the columns are 4"),
    ],
)
def test_what_is_wrong_is_said(rows: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        imported(tmp_path, "x,u,r,d\n" + rows, terminal="d")


def test_a_decimal_comma_that_comes_late(tmp_path: Path) -> None:
    rows = "1;0.25;1\n" * 150_000 + "0,5;0.25;1\n"
    with pytest.raises(InputError, match=r"column 'x' holds '0,5' in row 150000, .* say --decimal comma if all have"):
        imported(tmp_path, "x;u;r\n" + rows, episode="none")
