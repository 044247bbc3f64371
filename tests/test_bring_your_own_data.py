"""docs/bring-your-own-data.md, followed to the letter (with fewer updates), where no simulator can be imported."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "bring-your-own-data.md"

FOLLOW = """
import sys
for name in ("gymnasium", "mujoco", "gymnasium_robotics"):
    sys.modules[name] = None  # importing it fails, as where it is not installed
import json, shlex
from tether import cli
scope = {}
for language, text in json.loads(sys.stdin.read()):
    if language == "python":
        exec(compile(text, "bring-your-own-data.md", "exec"), scope)
        continue
    for line in text.splitlines():
        print(">", line, flush=True)
        try:
            cli.main(shlex.split(line)[1:])
        except SystemExit as stop:
            print("exit", stop.code, flush=True)
"""


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.long
def test_the_page_can_be_followed(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    short = [(language, text.replace("--updates 20000", "--updates 60 --batch-size 32")) for language, text in blocks()]
    assert short != blocks()
    result = subprocess.run(
        [sys.executable, "-c", FOLLOW],
        input=json.dumps(short),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    out, err = result.stdout, result.stderr
    assert re.findall(r"^exit (\d+)$", out, re.MULTILINE) == ["0"] * len(re.findall("^> tether", out, re.MULTILINE))
    assert out.count("> tether") == 5
    assert "arm.hdf5: " in out
    assert "episodes" in out
    assert re.search(r"grade +[AB]", out)  # the page's own data have nothing worse than a warning
    skipped = [line for line in err.splitlines() if "without evaluation" in line]
    assert len(skipped) == 2  # once by train, once by resume
    assert (tmp_path / "check-arm" / "report.html").exists()
    policy = json.loads((tmp_path / "runs" / "arm" / "policy" / "policy.json").read_text())
    assert list(policy["schema"]["observation"]) == ["joint_0", "joint_1", "velocity_0", "velocity_1", "target"]
    assert policy["schema"]["action_low"] == [-40.0, -40.0]
    assert min(policy["normaliser"]["std"]) < 0.99  # it standardises by itself


def test_commands_of_the_page_are_whole_lines() -> None:
    for language, text in blocks():
        if language == "":
            for line in text.splitlines():
                assert shlex.split(line)[0] == "tether"
