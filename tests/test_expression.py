"""Rewards by arithmetic: the values are right, and nothing but arithmetic is accepted."""

import math

import numpy as np
import pytest

from tether.data.logs.expression import parse_expression
from tether.errors import InputError

SIZES = {"a": 1, "b": 1, "joint.1": 1, "pose": 3}
VALUES = {
    "a": np.array([1.0, -2.0, 0.5]),
    "b": np.array([4, 5, 6]),
    "joint.1": np.array([0.1, 0.2, 0.3]),
    "pose": np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [1.0, 2.0, 2.0]], np.float32),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", [1, -2, 0.5]),
        ("-(a**2) - 0.5 * b", [-3, -6.5, -3.25]),
        ("2", [2, 2, 2]),
        ("a + b / 2 - b // 4 + b % 4", [2, 0.5, 4.5]),
        ("abs(a) + sqrt(b) * 0 + exp(0) + log(1) + sign(a)", [3, 2, 2.5]),
        ("sin(a)**2 + cos(a)**2 + tan(0) + tanh(0)", [1, 1, 1]),
        ("min(a, b, 0.75)", [0.75, -2, 0.5]),
        ("max(a, 0)", [1, 0, 0.5]),
        ("where(a > 0, b, -b)", [4, -5, 6]),
        ("b if a > 0 else -1", [4, -1, 6]),
        ("1 - (a > 0)", [0, 1, 0]),
        ("-(a >= 1)", [-1, 0, 0]),
        ("0 < a < 1", [0, 0, 1]),
        ("(a > 0) and (b > 4) or (a == -2)", [0, 1, 1]),
        ("not a < 0", [1, 0, 1]),
        ("column('joint.1') * 10", [1, 2, 3]),
        ("norm(pose)", [5, 2, 3]),
        ("norm(pose, a) ** 2", [26, 8, 9.25]),
        ("norm(a - 1, b - 4)", [0, math.hypot(3, 1), math.hypot(0.5, 2)]),
        ("pose[1] - pose[0]", [1, 0, 1]),
        ("  a ", [1, -2, 0.5]),
    ],
)
def test_values(text: str, expected: list[float]) -> None:
    expression = parse_expression(text, SIZES)
    np.testing.assert_allclose(expression.evaluate(VALUES, 3), expected, rtol=1e-12, atol=1e-12)
    assert expression.evaluate(VALUES, 3).dtype == np.float64


def test_needed_columns_only() -> None:
    assert parse_expression("b * norm(pose) + b", SIZES).columns == ("b", "pose")
    assert parse_expression("1", SIZES).columns == ()


def test_what_is_not_finite_comes_out_as_it_is() -> None:
    with np.errstate(all="raise"):
        assert parse_expression("9**9**9**9", SIZES).evaluate(VALUES, 1)[0] == np.inf  # and it does not take for ever
        assert np.isnan(parse_expression("log(a) / 0 * 0", SIZES).evaluate(VALUES, 3)).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c", "unknown column in the reward 'c': 'c'; "),
        ("joint", "did you mean column('joint.1')?"),
        ("column('c')", "'c'"),
        ("column(a)", "is no column"),
        ("pose", "column 'pose' holds 3 numbers in each row; write pose[0] or norm(pose)"),
        ("pose[3]", "no pose[3]: column 'pose' holds 3 numbers"),
        ("pose[-1]", "not arithmetic"),
        ("a[0]", "column 'a' holds 1 number in each row"),
        ("pose[a]", "not arithmetic"),
        ("pose * 2", "write pose[0]"),
        ("a +", "no column and no arithmetic"),
        ("", "no column and no arithmetic"),
        ("a\0", "no column and no arithmetic"),
        ("a = 1", "no column and no arithmetic"),
        ("'a'", "is not arithmetic"),
        ("1j", "is not arithmetic"),
        ("a @ b", "is not arithmetic"),
        ("a in b", "is not arithmetic"),
        ("a << 2", "is not arithmetic"),
        ("~a", "is not arithmetic"),
        ("(a, b)", "is not arithmetic"),
        ("a.mean()", "is not arithmetic"),
        ("sum(a)", "is not arithmetic"),
        ("abs()", "is not arithmetic"),
        ("abs(x=a)", "is not arithmetic"),
        ("abs(*pose)", "is not arithmetic"),
        ("print(a)", "is not arithmetic"),
        ("__import__('os').system('true')", "is not arithmetic"),
        ("().__class__.__bases__", "is not arithmetic"),
        ("[x for x in a]", "is not arithmetic"),
        ("lambda: 1", "is not arithmetic"),
        ("(c := 1)", "is not arithmetic"),
        ("f'{a}'", "is not arithmetic"),
        ("+".join("a" * 600), "levels; 100 are the most"),
        ("(" * 300 + "a" + ")" * 300, "no column and no arithmetic"),
    ],
)
def test_all_else_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_expression(text, SIZES)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_deepest_still_works() -> None:
    np.testing.assert_array_equal(parse_expression("+".join("a" * 98), SIZES).evaluate(VALUES, 3), 98 * VALUES["a"])
