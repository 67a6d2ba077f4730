"""`lamer bench trainer`: the trainer on made-up or recorded trials, beside three other ways to the same gradient.

models       a model by its folder, or by the name of an architecture, with random weights
trials       made-up trials of the paper's shape, or the batches of a run
plain        the other ways: padded transformers, transformers' own packing, bare layers
measuring    seconds and peak bytes on the CPU and on CUDA, and the peaks of known cards
run          all of them in turns, in one process
report       the figures as a record, as JSON and as tables
"""
