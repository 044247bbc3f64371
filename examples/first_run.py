"""A first run

From logged data to a policy that acts, with the data set that comes with tether: 65,000 rows of a half-trained
cheetah. It takes some four minutes on 2 cores. The same from the command line: `tether train`.
"""

# %%
# ## Data
#
# A data set is a table of what was seen, done and earned. This one was recorded while another agent was learning; its
# episodes score 33.6 (interquartile mean), where 0 is a random policy and 100 an expert.
import numpy as np

import tether

data = tether.load_dataset("halfcheetah-medium-replay-small")
print(data.name, data.observations.shape, data.actions.shape)

# %%
# ## Train
#
# An algorithm is an object with its hyper-parameters; a run has options of its own. Two seeds are two *lanes* of one
# compiled program, which trains both. Evaluations are real episodes of the cheetah.
PRETRAIN_UPDATES, UPDATES, EPISODES = 2_000, 10_000, 5

algorithm = tether.DTQL(pretrain_updates=PRETRAIN_UPDATES, train_updates=UPDATES)
options = tether.Options(eval_every_updates=UPDATES // 4, eval_episodes=EPISODES)
report = tether.train(algorithm, data, seeds=2, options=options, out="runs/first")

# %%
# ## What came out
#
# `report.last` is the last evaluation, over both seeds: the interquartile mean of the scores and its 95 % interval
# (`report.last.mean` is their plain mean). `report.best` is chosen with hindsight and no estimate of what you get. One
# seed of this run went from the data's 33.6 to 37.2.
#
# ![Score over updates above the dashed line of the data](../images/demo.png)
print("the data   ", report.behaviour)
print("the policy ", report.last)
print("picture    ", report.curve)

# %%
# ## Act
#
# The policy folder is all that a robot needs: networks, normaliser and bounds, verified when it is loaded. A call takes
# one observation or a batch of them.
policy = tether.load_policy("runs/first")
action = policy(data.observations[0])
print(action.shape, policy(data.observations[:8]).shape)
assert np.abs(action).max() <= 1

# %%
# ## Look closer, and go on
#
# More episodes, of both lanes; then the same run, longer. A run that was stopped or killed goes on in the same way, bit
# for bit as if nothing had happened.
_, scores = tether.evaluate("runs/first", episodes=2 * EPISODES)
print("again      ", scores.mean(axis=1))

report = tether.resume("runs/first", updates=UPDATES + UPDATES // 4)
print(report.updates, "updates", report.last)
