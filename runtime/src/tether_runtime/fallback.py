"""What happens where a policy should not act: an observation that is wrong, late or unlike the training data.

Each kind of trouble has a rule:

    refuse   an `InputError`: whoever asked must decide
    hold     the episode's last action once more; the safe action where there is none
    safe     the safe action
    act      the policy acts, and the trouble is only named (of `outside` and `foreign` alone)

    missing   the observation lacks columns, has too many, or is of another shape
    not_finite   it, or the action or memory that the policy gave, holds NaN or infinities
    late      its clock is further back than allowed
    outside   it lies outside the range of the training data, by more than a margin
    foreign   it and the policy's action are unlike the data's own decisions (`Policy.trust`)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tether_runtime.columns import numbers
from tether_runtime.errors import InputError
from tether_runtime.policy import Memory, Policy
from tether_runtime.trust import FLAGGED

__all__ = ["ACTIONS", "TROUBLES", "Checked", "Decision", "Guard"]

Array = np.ndarray
TROUBLES = ("missing", "not_finite", "late", "outside", "foreign")
NAMED = ("outside", "foreign")  # that the policy may act in
ACTIONS = ("refuse", "hold", "safe", "act")


class Checked(NamedTuple):
    """An observation that was looked at."""

    vector: Array | None  # None: there is none that a policy could be shown
    trouble: str | None
    message: str = ""


class Decision(NamedTuple):
    """What to do."""

    action: Array
    memory: Memory
    trouble: str | None = None  # one of TROUBLES
    fallback: str | None = None  # "hold" or "safe" where the policy did not decide
    message: str = ""
    trust: float | None = None  # of what the policy would do (`Policy.trust`); None where it was not judged


class Guard:
    """A policy with rules for what it should not be asked.

    rules: trouble -> what is done; refused by default, but for `outside` and `foreign`, in which the policy acts.
    safe_action: in the robot's units; needed where a rule may come to it.
    late_seconds: how old an observation may be; None: its clock is not looked at.
    margin: how far beyond the training data's range, in widths of it, an observation may lie; None: anywhere.
    flagged_share: of the data's own decisions that are foreign, too; None: decisions are not judged.
    """

    def __init__(
        self,
        policy: Policy,
        rules: Mapping[str, str] | None = None,
        *,
        safe_action: Sequence[float] | None = None,
        late_seconds: float | None = None,
        margin: float | None = None,
        flagged_share: float | None = FLAGGED,
    ):
        """Raises InputError for a rule or safe action that cannot be."""
        self.policy = policy
        self.rules = {**dict.fromkeys(TROUBLES, "refuse"), **dict.fromkeys(NAMED, "act"), **(rules or {})}
        for trouble, rule in self.rules.items():
            if trouble not in TROUBLES:
                raise InputError(f"fallback {trouble!r}: there are {', '.join(TROUBLES)}")
            if rule not in ACTIONS or (rule == "act" and trouble not in NAMED):
                raise InputError(f"fallback for {trouble}: {rule!r}; it may be refuse, hold or safe")
        self.safe_action = None if safe_action is None else self._checked_safe(safe_action)
        if self.safe_action is None and {"hold", "safe"} & set(self.rules.values()):
            raise InputError("a safe action is needed where a rule is hold or safe")
        for what, value in (("late_seconds", late_seconds), ("margin", margin)):
            if value is not None and not 0 <= value < np.inf:
                raise InputError(f"{what} {value}: a number of at least 0")
        if flagged_share is not None and not 0 < flagged_share < 1:
            raise InputError(f"flagged share {flagged_share}: of the data's own decisions, between 0 and 1")
        if self.rules["foreign"] != "act" and (flagged_share is None or not policy.has_trust):
            raise InputError("fallback for foreign: decisions are not judged; export a policy that carries trust")
        self.late_seconds, self.margin = late_seconds, margin
        self.flagged_share = flagged_share if policy.has_trust else None
        self._low, self._high = self._range()

    def _checked_safe(self, action: Sequence[float]) -> Array:
        limits = self.policy.document["action"]
        vector = numbers("safe action", action)
        if vector.shape != (self.policy.action_size,) or not np.isfinite(vector).all():
            raise InputError(f"safe action {list(action)}: {self.policy.action_size} finite numbers are needed")
        if (vector < np.float32(limits["low"])).any() or (vector > np.float32(limits["high"])).any():
            raise InputError(f"safe action {list(action)}: outside of {limits['low']} to {limits['high']}")
        return vector

    def _range(self) -> tuple[Array | None, Array | None]:
        seen = self.policy.document["observation"].get("statistics")
        if self.margin is None or seen is None:
            return None, None
        low, high = np.asarray(seen["low"], np.float32), np.asarray(seen["high"], np.float32)
        return low - self.margin * (high - low), high + self.margin * (high - low)

    def check(self, observation: Any, clock: float | None = None, now: float | None = None) -> Checked:
        """Look at an observation. clock: when it was made, in seconds since 1970, as `now` is."""
        try:
            vector = self.policy.vector(observation)
        except InputError as error:
            kind = "not_finite" if "not finite" in str(error) else "missing"
            return Checked(None, kind, str(error))
        if self.late_seconds is not None and clock is not None:
            age = (time.time() if now is None else now) - clock
            if age > self.late_seconds:
                return Checked(vector, "late", f"observation is {age:.3f} s old; {self.late_seconds:g} s are allowed")
        if self._low is not None and self._high is not None:
            beyond = ((vector < self._low) | (vector > self._high)).reshape(-1, vector.shape[-1]).any(axis=0)
            if beyond.any():
                names = ", ".join(self.names()[index] for index in np.flatnonzero(beyond)[:4])
                return Checked(vector, "outside", f"observation outside of the training data: {names}")
        return Checked(vector, None)

    def names(self) -> list[str]:
        """A name for each number of an observation."""
        columns = self.policy.columns
        if columns is None:
            return [f"observation[{index}]" for index in range(self.policy.observation_size)]
        return [
            name if stop - start == 1 else f"{name}[{index}]"
            for name, (start, stop) in columns.items()
            for index in range(stop - start)
        ]

    def instead(self, checked: Checked, memory: Memory = (), last: Array | None = None) -> Decision | None:
        """What is done in the place of the policy; None: it acts. Raises InputError where the rule is to refuse."""
        if checked.trouble is None or self.rules[checked.trouble] == "act":
            return None
        rule = self.rules[checked.trouble]
        if rule == "refuse":
            raise InputError(checked.message)
        kind, action = "safe", self.safe_action
        assert action is not None  # which `__init__` saw to
        if rule == "hold" and last is not None and np.shape(last) == (len(action),) and np.isfinite(last).all():
            kind, action = "hold", last
        return Decision(np.array(action, np.float32), memory, checked.trouble, kind, checked.message)

    def after(
        self, checked: Checked, action: Array, memory: Memory, last: Array | None = None, before: Memory = ()
    ) -> Decision:
        """The decision where the policy gave `action` and `memory`: they may be no numbers, or foreign to the data.

        before: the memory that the policy was given, which is kept where what it gave is not finite.
        """
        for what, arrays in (("action", [action]), ("memory", memory)):
            if not all(np.isfinite(array).all() for array in arrays):
                line = f"the policy's {what} is not finite"
                decided = self.instead(Checked(checked.vector, "not_finite", line), before, last)
                assert decided is not None  # no policy may act in this trouble
                return decided
        if self.flagged_share is None:
            return Decision(action, memory, checked.trouble, None, checked.message)
        trust, flagged, why = self.policy.trust(checked.vector, action, flagged_share=self.flagged_share)
        if flagged and (checked.trouble is None or self.rules["foreign"] != "act"):
            checked = Checked(checked.vector, "foreign", f"unlike the data's decisions: {'; '.join(why)}")
            decided = self.instead(checked, memory, last)
            if decided is not None:
                return decided._replace(trust=trust)
        return Decision(action, memory, checked.trouble, None, checked.message, trust)

    def act(
        self,
        observation: Any,
        *,
        memory: Memory = (),
        reward: float = 0.0,
        last: Array | None = None,
        clock: float | None = None,
        **how: Any,
    ) -> Decision:
        """One decision. last: the episode's action before; how: `seed`, `budget_ms` and the like of the policy's call.

        Raises InputError where a rule is to refuse.
        """
        checked = self.check(observation, clock)
        if checked.vector is not None and checked.vector.ndim != 1:
            raise InputError("observation: one at a time, each has rules of its own")
        decided = self.instead(checked, memory, last)
        if decided is not None:
            return decided
        if self.policy.has_memory:
            action, after = self.policy.step(checked.vector, memory, reward, **how)
        else:
            action, after = self.policy(checked.vector, **how), memory
        return self.after(checked, action, after, last, memory)
