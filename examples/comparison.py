"""A comparison and an ablation

Which algorithm for these data, and which part of it earns its place? Both questions are only answered under one
protocol: the same data, seeds, updates and evaluation episodes for all.
"""

# %%
# ## A comparison
#
# Three cheap algorithms on the data set that comes with tether. Each leaves an ordinary run folder in
# `runs/compared`; the same call again goes on where it was stopped. The same from the command line: `tether compare`.
import tether

UPDATES, SEEDS, EPISODES = 10_000, 2, 5
DATA = "halfcheetah-medium-replay-small"

comparison = tether.compare(
    [tether.BC, tether.TD3BC, tether.IQL],
    DATA,
    seeds=SEEDS,
    updates=UPDATES,
    eval_episodes=EPISODES,
    out="runs/compared",
)

# %%
# ## Its table and its picture
#
# The first row is the data. *last* is the last evaluation, *best* is chosen with hindsight: report the former. Two
# seeds tell little, and the interval says so: with few seeds it is even too narrow ([how
# far](../docs/compare.md#the-table)). `runs/compared/comparison.png` draws the score against the cost of training.
print(comparison)

# %%
# It printed this (some columns left out; the whole tutorial takes some ten minutes on 2 idle cores):
#
# | | last score (IQM) | over seeds (mean) | updates/s |
# |---|---|---|---|
# | the data | 33.6 [30.7, 36.2] | 31.6 | |
# | bc | 38.9 [37.9, 40.5] | 39.1 [26.0, 52.2] | 160 |
# | td3-bc | 34.1 [33.0, 34.9] | 34.0 [31.7, 36.4] | 30.5 |
# | iql | 31.2 [28.9, 33.0] | 31.0 [23.2, 38.8] | 19.5 |
#
# Cloning leads after 10,000 updates, a hundredth of what is usual: the critics of the other two have hardly begun.

# %%
# ## An ablation
#
# TD3+BC maximises Q and clones the data. What does Q add? `q_weight` 0 is cloning alone, 2.5 the paper's value, 10
# nearly Q alone. A numeric hyper-parameter needs no program of its own: six *lanes* train at once, three values times
# two seeds, and each value is an *arm*.
report = tether.train(
    tether.TD3BC(train_updates=UPDATES),
    DATA,
    seeds=SEEDS,
    sweep={"q_weight": [0.0, 2.5, 10.0]},
    options=tether.Options(eval_every_updates=UPDATES // 2, eval_episodes=EPISODES),
    out="runs/ablation",
)

# %%
# `runs/ablation/sweep.png` is its picture, and `sweep.json` has the numbers: each arm's mean over its seeds, with a
# 95 % interval of Student's t, and how many lanes diverged.
for arm in report.arms:
    print(arm.name, arm.mean, [arm.low, arm.high])

# %%
# It printed
#
# ```
# q_weight 0    34.4 [-12.7, 81.6]
# q_weight 2.5  34.0 [31.7, 36.4]
# q_weight 10   25.3 [7.4, 43.3]
# ```
#
# So after 10,000 updates Q adds nothing yet and much of it costs; but with two seeds only the second interval is narrow
# enough to say anything. For a claim: ten seeds, and the length of training that you would use.
