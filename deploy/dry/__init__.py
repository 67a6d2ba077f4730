"""`lamer train --dry-run`: what a configuration would cost, told without weights, a GPU or a download.

architecture   the model's sizes and its exact number of parameters
prompts        scripted trials of the environment, for how long its prompts are
workload       trajectories, responses and tokens of an update      pure
memory         of the trainer's GPU and of an inference server      pure
timing         of an update and of the run                          pure
checks         what can't work (an error) and what won't fit (a warning)
run            all of it in order;  report: as tables
"""
