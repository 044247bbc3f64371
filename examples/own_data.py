"""Your own data

A log of your machine becomes a policy: no simulator, no files needed. What a table on disk takes (CSV, Parquet) is on
the page [Bring your own data](../docs/bring-your-own-data.md); here the log is in memory, as arrays.
"""

# %%
# ## A log
#
# A room's heater, run for 60 days by a thermostat that is too coarse: it was logged every 6 minutes what the room and
# the outside were like, how much power was used (0 to 2 kW), and what it was worth: comfort less the price of energy.
import numpy as np

import tether

DAYS, STEPS = 60, 240
random = np.random.default_rng(0)


def day(random: np.random.Generator) -> dict[str, np.ndarray]:
    """One day of the thermostat: room and outside in °C, the hour, power in kW, and the reward of each step."""
    room, rows = random.uniform(15, 22), []
    for step in range(STEPS):
        hour = 24 * step / STEPS
        outside = 5 + 5 * np.sin((hour - 9) / 24 * 2 * np.pi) + random.normal(0, 0.5)
        power = float(np.clip((2.0 if room < 20 else 0.0) + random.normal(0, 0.5), 0, 2))
        after = room + 0.1 * (2.0 * power - 0.15 * (room - outside))
        rows.append([room, outside, hour, power, -abs(after - 20) - 0.3 * power])
        room = after
    columns = np.array(rows, np.float32).T
    return dict(zip(["room", "outside", "hour", "power", "reward"], columns, strict=True))


days = [day(random) for _ in range(DAYS)]
log = {name: np.concatenate([one[name] for one in days]) for name in days[0]}

# %%
# ## A data set
#
# Names go with the policy, and so do the actuator's limits: it will ask for kilowatts, never for more than 2. A day
# does not *end* at midnight, the recording does, so no row is terminal; `episodes` tells the days apart. Mixing these
# two up makes values wrong everywhere.
data = tether.Dataset.from_arrays(
    observations={name: log[name] for name in ("room", "outside", "hour")},
    actions={"power": log["power"]},
    rewards=log["reward"],
    terminals=np.zeros(DAYS * STEPS, bool),
    episodes=np.repeat(np.arange(DAYS), STEPS),
    action_low=0.0,
    action_high=2.0,
    name="heater",
)
data.to_hdf5("heater.hdf5")  # for `tether data check heater.hdf5`, and for the command line

# %%
# ## Train
#
# IQL is cheap and hard to break. Units differ, so observations are standardised; the policy does it by itself later.
# There is no simulator, and one line says so; `runs/heater/metrics.jsonl` has the losses. Four seeds, so that we can
# see whether they agree.
UPDATES = 3_000

report = tether.train(
    tether.IQL(train_updates=UPDATES),
    data,
    seeds=4,
    observation_transform="standardise",
    environment="none",
    out="runs/heater",
)

# %%
# ## Act, in your units and by name
policy = tether.load_policy("runs/heater")
power = policy({"room": 18.0, "outside": 3.0, "hour": 7.0})
print("at 18 °C:", power, "kW; at 22 °C:", policy({"room": 22.0, "outside": 3.0, "hour": 7.0}), "kW")
assert 0 <= power[0] <= 2

# %%
# ## Before it heats anything
#
# Without a simulator nobody knows how good a policy is. What can be known: how far it is from the operator, and whether
# the seeds agree. Where they do not, the data do not say. Here they are 0.24 kW from the thermostat, and 0.01 kW from
# each other.
seeds = [tether.load_policy(f"runs/heater/policies/lane-{lane}") for lane in range(4)]
chosen = np.stack([one(data.observations) for one in seeds])
print("from the thermostat, kW:", np.abs(chosen.mean(axis=0)[:, 0] - log["power"]).mean())
print("between seeds, kW:     ", chosen.std(axis=0).mean())
