"""The lowest versions that pyproject.toml allows, as constraints for pip and uv: `make test-lowest`.

python tools/lowest.py [EXTRA,EXTRA] > lowest.txt

Of the dependencies and of these extras. What they in turn depend on is left to the resolver, as newest as fits.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?\s*(.*)")
LEAST = re.compile(r">=\s*([0-9][0-9A-Za-z.]*)")


def lowest(extras: list[str]) -> list[str]:
    """`NAME==VERSION` of everything with a lower bound; what has none, such as `mujoco<4`, as it stands."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    lines = []
    for requirement in wanted:
        match = REQUIREMENT.fullmatch(requirement.split(";")[0].strip())
        assert match is not None, requirement
        name, _, bounds = match.groups()
        least = LEAST.search(bounds)
        if bounds:  # what lies in this repository has none
            lines.append(f"{name}=={least.group(1)}" if least else f"{name}{bounds}")
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest([name for name in sys.argv[1:] if name for name in name.split(",")])) + "\n")
