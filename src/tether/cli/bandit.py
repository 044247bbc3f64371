"""`tether bandit`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from tether.cli.parts import (
    Assignments,
    Precision,
    assignments,
    fail,
    hint,
    print_out,
)
from tether.cli.words import given_fields, option_name
from tether.errors import InputError

__all__ = ["Bandit"]

OF_ONE = ("problem", "settings", "updates", "seed", "precision", "set")
OF_THE_GALLERY = ("only", "fresh")


@dataclasses.dataclass(frozen=True)
class Bandit:
    """Train on a 2-D problem with a known answer, print the scores, draw the picture.

    `tether bandit` alone lists the problems; `tether bandit gallery` redraws the papers' 2-D figures.

    Examples:
      tether bandit bdpo 8gaussians
      tether bandit dac dac-three --set guidance=hard --out hard.png
      tether bandit dtql 25gaussians-far --settings published
      tether bandit gallery --out gallery
      tether bandit gallery --only dac-2 --out gallery
    """

    algorithm: Annotated[Positional[str | None], hint("none: list the problems", "ALGORITHM")] = None
    """dtql, dtql-kl, dac or bdpo; or `gallery`."""
    problem: Annotated[Positional[str | None], hint("none", "PROBLEM")] = None
    """Name of the problem."""
    settings: Literal["fair", "published"] = "fair"
    """Settings under which the method's claim holds, or those of the DTQL paper's toy code."""
    updates: Annotated[int | None, hint("the settings'", "N")] = None
    """Updates of the last phase."""
    seed: int = 0
    """Seed of data, networks and minibatches."""
    precision: Precision = "float32"
    """Precision of the matmuls of training."""
    set: Assignments = ()
    """Hyper-parameters, over the settings; also batch_size, points, state, terminal, unit_scale, box."""
    only: Annotated[tuple[str, ...], hint("all", "FIGURE ...")] = ()
    """Figures of the gallery to draw."""
    fresh: bool = False
    """Train and draw the gallery's figures again, those that are there too."""
    out: Annotated[Path | None, hint("bandit-ALGORITHM-PROBLEM.png; of the gallery: gallery", "PATH")] = None
    """The picture (.pdf, .png or .svg); of the gallery, its folder."""
    quiet: bool = False
    """No progress on stderr, only warnings."""

    def run(self) -> int:
        """Train and score, draw the gallery, or list."""
        gallery = self.algorithm == "gallery"
        self._refuse(OF_ONE if gallery else OF_THE_GALLERY, "not of the gallery" if gallery else "of the gallery alone")
        if self.algorithm is None:
            print_out(_problem_table())
            return 0
        if gallery:
            from tether.bandits.gallery import draw_gallery

            folder = self.out or Path("gallery")
            draw_gallery(folder, self.only, fresh=self.fresh, quiet=self.quiet)
            print_out(f"gallery {folder}")
            return 0
        if self.problem is None:
            raise InputError(f"bandit {self.algorithm}: name a problem too; `tether bandit` lists them")
        from tether.bandits.report import run_bandit
        from tether.plots.figures import picture_format

        out = self.out or Path(f"bandit-{self.algorithm}-{self.problem}.png")
        picture_format(out)  # before anything is trained
        if not out.resolve().parent.is_dir():
            raise InputError(f"--out {out}: there is no folder {out.resolve().parent}")
        changes: dict[str, Any] = dict(assignments("--set", self.set))
        if self.updates is not None:
            changes["train_updates"] = self.updates
        table, diverged_at = run_bandit(
            self.algorithm, self.problem, self.settings, changes, self.seed, out, self.quiet, self.precision
        )
        print_out(table)
        print_out(f"picture {out}")
        return 0 if diverged_at is None else fail(1, f"diverged at update {diverged_at:,}")

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        """Refuse options that would be passed over in silence."""
        for name in given_fields(self):
            if name in names:
                raise InputError(f"bandit: {self.problem if name == 'problem' else option_name(name)} is {why}")


def _problem_table() -> Any:
    """The 2-D problems, one row each."""
    from rich.table import Table

    from tether.bandits import PROBLEMS

    table = Table("problem", "paper", "what", "temperature", title="2-D problems", title_justify="left")
    for problem in PROBLEMS.values():
        table.add_row(problem.name, problem.paper, problem.description, f"{problem.temperature:g}")
    return table
