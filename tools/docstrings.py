"""How tether writes docstrings, for mkdocstrings: an extension of griffe (mkdocs.yml).

    name: what a parameter is, in lines that may go on
        with an indent, also as a table whose columns are two or more spaces apart
    Raises InputError for ...

becomes a list of parameters and a paragraph of its own. The comment behind a field is its description.
"""

import re
from pathlib import Path
from typing import Any

import griffe

ITEM = re.compile(r"^(\w+(?:, \w+)*): (.*)$")
ALIGNED = re.compile(r"\S {2,}\S")
COMMENT = re.compile(r".*?[^'\"]  # (.+)$")


class HouseStyle(griffe.Extension):
    """Rewrites docstrings of functions, and gives fields those that they have as comments."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Parameters as a list."""
        if func.docstring:
            func.docstring.value = as_markdown(func.docstring.value, {parameter.name for parameter in func.parameters})

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """The comment behind a field."""
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class and attr.lineno:
            path = attr.filepath
            line = attr.lines_collection[path][attr.lineno - 1] if isinstance(path, Path) else ""
            comment = COMMENT.match(line)
            attr.docstring = griffe.Docstring(comment.group(1), parent=attr) if comment else None


def as_markdown(text: str, parameters: set[str]) -> str:
    """The docstring with its parameters as a Markdown list."""
    found: list[str] = []
    lines, in_list = text.splitlines(), False
    while lines:
        line = lines.pop(0)
        item = ITEM.match(line)
        is_item = item is not None and set(item.group(1).split(", ")) <= parameters
        if found and found[-1] and line and (is_item != in_list or (not is_item and line.startswith("Raises "))):
            found.append("")  # lists and what is raised stand apart
        if item and is_item:
            more: list[str] = []
            while lines and lines[0].startswith("    "):
                more.append(lines.pop(0))
            names = ", ".join(f"**`{name}`**" for name in item.group(1).split(", "))
            found += [f"- {names}: {item.group(2)}", *_continued(more)]
        else:
            found.append(line)
        in_list = is_item
    return "\n".join(found)


def _continued(lines: list[str]) -> list[str]:
    """Lines that go on a list's item: as text, or as they are where they are columns."""
    if any(ALIGNED.search(line.strip()) for line in lines):
        return ["", "    ```text", *(f"    {line.strip()}" for line in lines), "    ```"]
    return [f"    {line.strip()}" for line in lines]
