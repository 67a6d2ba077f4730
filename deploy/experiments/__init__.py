"""Experiments: grids of normal runs with seeds, resumable cell by cell; each ends in a page beside the paper's figures.

definition   what an experiment's YAML says: arms, axes, seeds, evaluations, the paper's figures, the page
reading      finds that file, reads it and checks it
cells        the grid: every cell's configuration, resolved before anything starts
results      what a finished cell came to: a small JSON file that can be committed
state        which cells are done, half done or still to do;  estimate   how long those take
runner       does what is left, cell by cell, each part a `lamer` command
statistics   means and intervals over seeds;  rows   arms over their seeds, for tables and plots
blocks       the kinds of blocks on a page;  tables, plots   what makes them;  page, index   where they stand
"""
