"""docs/choosing-a-policy.md, followed to the letter, with fewer updates."""

import json
import re
import shlex
from pathlib import Path

import pytest
from make_data import tether as run_command

PAGE = Path(__file__).parents[1] / "docs" / "choosing-a-policy.md"
SHORTER = {
    "--updates 4000": "--updates 40 --batch-size 32 --set hidden_sizes=8,8",
    "updates=2000": "updates=64, rows=500",
}


@pytest.mark.long
def test_the_page_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for language, text in re.findall(
        r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), scope)
            continue
        for line in text.splitlines():
            words = shlex.split(line)[1:]
            if words[0] == "choose":
                words += ["--updates", "64", "--rows", "500"]
            code, out, err = run_command(*words)
            if words[0] == "choose":
                answer = json.loads((tmp_path / "choice.json").read_text())
                assert code == (0 if answer["recommended"] else 1), err
                assert len(answer["rows"]) == 3
                assert all("own_critic" in row and row["losses"] for row in answer["rows"])
            else:
                assert code == 0, err
            if words[:2] == ["data", "check"]:
                assert re.search(r"grade +[AB]", out), out
    assert scope["found"].value == pytest.approx((2 * 1 + 0 + 1 * 1) / 3.5)
    assert (tmp_path / "runs" / "td3-bc" / "losses.png").exists()
