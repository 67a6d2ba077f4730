"""`lamer train --dry-run`: what a configuration would cost, told without weights, a GPU or a download.

architecture   the model's sizes and its exact number of parameters
prompts        scripted trials of the environment, for how long its prompts are
workload       trajectories, responses and tokens of an update      pure
timing         of an update and of the run                          pure
checks         what can't work
run            all of it in order, memory by `learner.memory`;  report: as tables
"""
