"""The page: what was done and what the policy would do, action by action, in the log's own words and units."""

import collections
import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tether._version import __version__
from tether.data import Dataset
from tether.studies.policy_report.played import DRAWS, Played, Seeds
from tether.studies.report.parts import document, inline_figure, listed, name_cell, section, table, value_cell

__all__ = ["page"]

DISAGREEMENTS, APART_ROWS = 12, 10  # shown, and not nearer to each other than so many rows of an episode
REASONS, STRETCHES = 8, 10


def page(
    played: Played,
    seeds: Seeds,
    dataset: Dataset,
    figures: Mapping[str, tuple[str, Path]],
    title: str,
    command: str,
) -> str:
    """figures: name -> (caption, SVG file)."""
    drawn = {name: inline_figure(*figure) for name, figure in figures.items()}
    episodes = "".join(text for name, text in drawn.items() if name.startswith("episode-"))
    parts = [_head(played, seeds, dataset, title), section("Actions", _actions(played))]
    parts.append(section("Trust", _trust(played)))
    parts.append(section("Episodes", episodes))
    parts.append(section("Largest disagreements", _disagreements(played)))
    parts.append(section("Distributions", drawn["distributions"]))
    parts.append(section("Sensitivity", drawn["sensitivity"]))
    parts.append(section("How this was made", _made(played, seeds, dataset, command)))
    return document(title, parts)


def _head(played: Played, seeds: Seeds, dataset: Dataset, title: str) -> str:
    words = [f"{len(played.rows):,} of {len(dataset):,} logged decisions", f"{len(played.stretches)} stretches"]
    words += [f"{len(seeds.each)} seed{'s' if len(seeds.each) > 1 else ''}", f"tether {__version__}"]
    apart = 100 * played.apart.mean(axis=0)
    worst = int(np.argmax(apart))
    name, least = played.names[1], apart.mean()
    said = f"On average the policy is {least:.1f} % of an action's logged range from what was done"
    said += f", most in {name[worst]} ({apart[worst]:.1f} %)." if len(name) > 1 else "."
    beyond = 100 * played.outside.any(axis=-1).mean()
    said += f" In {_percent(beyond)} of its decisions an action lies outside of what was ever logged."
    if played.trust is not None and played.trust_logged is not None:
        own, theirs = (100 * np.mean(each.flagged) for each in (played.trust, played.trust_logged))
        said += f" {_percent(own)} of its decisions are flagged as foreign; of those logged, {_percent(theirs)}."
    muted = html.escape("; ".join(words))
    return f'<h1>{html.escape(title)}</h1><p class="muted">{muted}</p><p>{html.escape(said)}</p>'


def _percent(value: float) -> str:
    return "0 %" if value == 0 else f"{value:.1f} %" if value >= 0.05 else f"{value:.2g} %"


def _actions(played: Played) -> str:
    """A line for each action: both means and spreads, their distance, and how often the policy leaves the range."""
    lines, policy = [], played.done.reshape(-1, played.logged.shape[1])
    below = 100 * np.mean(policy < played.seen[0] - 1e-5 * (played.seen[1] - played.seen[0]), axis=0)
    above = 100 * np.mean(policy > played.seen[1] + 1e-5 * (played.seen[1] - played.seen[0]), axis=0)
    seeds = played.done.mean(axis=1)
    between = np.mean(seeds.max(axis=0) - seeds.min(axis=0), axis=0)
    distance = np.mean(np.abs(played.middle - played.logged), axis=0)
    for j, name in enumerate(played.names[1]):
        cells = [f"{x[:, j].mean():.4g} ± {x[:, j].std():.3g}" for x in (played.logged, policy)]
        cells += [f"{played.seen[0][j]:.4g} to {played.seen[1][j]:.4g}", f"{distance[j]:.3g}"]
        cells += [f"{100 * played.apart[:, j].mean():.1f} %", f"{between[j]:.3g}"]
        cells += [_percent(below[j]), _percent(above[j])]
        lines.append([name_cell(name), *map(value_cell, cells)])
    heads = ["action", ">logged", ">policy", ">ever logged", ">mean distance", ">of the range", ">between seeds"]
    caption = (
        "Mean ± deviation. Distance: of the policy's mean to what was done, row by row. Last: decisions beyond it."
    )
    return table([*heads, ">below", ">above"], lines, caption)


def _trust(played: Played) -> str:
    if played.trust is None or played.trust_logged is None:
        return "<p>The policy's folder carries no trust: no decision of it can be judged.</p>"
    stretches = played.stretches
    judged = played.trust.flagged, played.trust_logged.flagged
    rates = [[100 * np.mean(flagged[played.of(stretch)]) for flagged in judged] for stretch in stretches]
    order = [i for i in np.argsort([-own for own, _ in rates], kind="stable").tolist() if max(rates[i]) > 0]
    caption = "Decisions flagged: of the policy, and of those logged (1 % of those like the training data's)."
    if not order:
        return f"<p>{caption} In none of these stretches is there any.</p>"
    lines = []
    for i in order[:STRETCHES]:
        step, rows = played.step[played.of(stretches[i])], f"{stretches[i].start}"
        name = f"episode {stretches[i].episode}, steps {step[0]} to {step[-1]}"
        lines.append([name_cell(name), *map(value_cell, [rows, *(f"{rate:.1f} %" for rate in rates[i])])])
    caption += f" There are some in {len(order)} of {len(stretches)} stretches, most in these."
    heads = ["stretch", ">first row", ">policy flagged", ">logged flagged"]
    return table(heads, lines, caption) + _reasons(played)


def _subject(reason: str) -> str:
    """The column that a reason is about."""
    return reason.split(":")[0].rsplit(" ", 1)[0] if ", " not in reason.split(":")[0] else "several together"


def _reasons(played: Played) -> str:
    """By which columns decisions of the policy were flagged."""
    assert played.trust is not None
    counted = collections.Counter(s for reasons in played.trust.reasons for s in {_subject(r) for r in reasons})
    examples = {_subject(reason): reason for reasons in played.trust.reasons for reason in reasons}
    if not counted:
        return ""
    lines = [
        [name_cell(name), value_cell(f"{100 * count / len(played.rows):.1f} %"), value_cell(examples[name], "why")]
        for name, count in counted.most_common(REASONS)
    ]
    return table(["about", ">of the decisions", "for example"], lines, "Reasons of those of the policy:")


def _disagreements(played: Played) -> str:
    """The decisions in which the two are farthest apart, an episode's neighbours counted once."""
    lines, apart = [], played.apart
    taken: list[tuple[int, int]] = []
    episode = np.concatenate([np.full(each.end - each.start, each.episode) for each in played.stretches])
    for i in np.argsort(-apart.max(axis=1), kind="stable").tolist():
        place = int(episode[i]), int(played.step[i])
        if any(place[0] == e and abs(place[1] - s) < APART_ROWS for e, s in taken):
            continue
        taken.append(place)
        j = int(np.argmax(apart[i]))
        cells = [f"{place[0]}", f"{place[1]}"]
        values = [f"{played.logged[i, j]:.4g}", f"{played.middle[i, j]:.4g}", f"{100 * apart[i, j]:.0f} %"]
        line = [name_cell(f"{played.rows[i]}"), *map(value_cell, cells), value_cell(played.names[1][j], "")]
        line += map(value_cell, values)
        if played.trust is not None:
            why = "; ".join(played.trust.reasons[i]) or "like the data's"
            line += [value_cell(f"{played.trust.trust[i]:.3f}"), value_cell(why, "why")]
        lines.append(line)
        if len(lines) == DISAGREEMENTS:
            break
    heads = ["row", ">episode", ">step", "action", ">logged", ">policy", ">of the range"]
    return table([*heads, *([] if played.trust is None else [">trust", "why"])], lines)


def _made(played: Played, seeds: Seeds, dataset: Dataset, command: str) -> str:
    best = seeds.best.document
    notes = best.get("notes", {})
    lines = [
        f"policy: {best['algorithm']}, sha256 {best['sha256'][:12]}, of {notes.get('dataset', 'data without a name')}",
        f"log: {dataset.name}, sha256 {dataset.source.sha256[:12]}, {len(dataset.episode_bounds().starts)} episodes",
        f"{', '.join(seeds.names)}; {DRAWS} actions of each at each observation; trust is that of "
        f"{seeds.names[seeds.number]}'s first",
        "The policy is asked at logged observations: what would have followed its own actions is not known.",
    ]
    stated = best.get("trust")
    if stated is not None:
        kind = "episodes" if stated["stretch_rows"] is None else f"stretches of {stated['stretch_rows']} rows"
        least, middle, most = (100 * share for share in stated["flagged_in_pieces"])
        lines.append(
            f"trust: calibrated on {stated['calibrated']:,} decisions of {stated['pieces']} {kind}; 1 % of them are "
            f"flagged all together, in single ones {least:.1f} to {most:.1f} % (median {middle:.1f} %)"
        )
    return listed(lines) + (f"<pre>{html.escape(command)}</pre>" if command else "")
