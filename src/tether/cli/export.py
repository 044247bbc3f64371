"""`tether export`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from tether.cli.parts import Assignments, assignments, hint, print_out

__all__ = ["Export"]


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a policy for a runtime without JAX: ONNX, NumPy alone, or StableHLO.

    Its random numbers become inputs; normaliser, candidates and action range are inside.

    Before anything is written it acts here beside JAX, and is refused where they differ.

    The package tether-runtime loads the folder.

    Examples:
      tether export runs/dtql-hopper-medium-20260101-120000
      tether export runs/dtql-hopper-medium-20260101-120000/policy --format numpy --out hopper
      tether export runs/dtql-hopper-medium-20260101-120000 --candidates 64 16 4
    """

    policy: Annotated[Positional[Path], arg(metavar="POLICY")]
    """A policy folder, or a run that has one."""
    format: Literal["onnx", "numpy", "stablehlo"] = "onnx"
    """onnx: for ONNX Runtime. numpy: needs nothing but NumPy. stablehlo: for compilers that take it, and jax.export."""
    dtype: Literal["float32", "float16"] = "float32"
    """float16: networks in half precision (onnx only); observations and actions stay float32."""
    candidates: Annotated[tuple[int, ...], hint("as the policy has it", "N ...")] = ()
    """A graph for each number of candidates; the first is acted with unless a call asks for another or for a budget."""
    unit: Assignments = ()
    """Units of columns, such as joint_1=rad, kept for readers."""
    noise: bool = False
    """A Gaussian actor acts with its noise, and says how likely each action was, in the place of its mode."""
    out: Annotated[Path | None, hint("export-FORMAT beside the policy", "DIR")] = None
    """The folder to write; replaced where it holds an export already."""
    check_decisions: int = 1000
    """Decisions that are compared with JAX."""

    def run(self) -> int:
        """Export, then say how it compares with JAX."""
        from tether.api import export_policy

        out = self.out or _beside(self.policy) / f"export-{self.format}"
        exported = export_policy(
            self.policy,
            out,
            format=self.format,
            dtype=self.dtype,
            candidates=self.candidates,
            units=assignments("--unit", self.unit),
            noise=self.noise,
            check_decisions=self.check_decisions,
        )
        for count, agreement in zip(exported.candidates, exported.agreements, strict=True):
            print_out(_sentence(count, agreement))
        print_out(f"exported {exported.folder}: {exported.bytes / 1e6:.2f} MB")
        return 0


def _beside(policy: Path) -> Path:
    """The run's folder, or the one that the policy folder lies in."""
    return policy.resolve().parent if (policy / "policy.json").is_file() else policy


def _sentence(candidates: int | None, agreement: Any) -> str:
    """`64 candidates: 1,000 decisions as in JAX, to 2.4e-07 of half an action's range`."""
    what = "" if candidates is None else f"{candidates} candidates: "
    text = f"{what}{agreement.rows:,} decisions as in JAX, to {agreement.largest:.1e} of half an action's range"
    if agreement.ill_conditioned:
        text += f"; {agreement.ill_conditioned} more hang on the last bits of the observation, in JAX too"
    return text
