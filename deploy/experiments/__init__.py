"""Experiments: grids of normal runs with seeds, resumable cell by cell; each ends in a page beside the paper's figures.

definition   what an experiment's YAML says: arms, axes, seeds, evaluations, the paper's figures, the page
cells        the grid: every cell's configuration, resolved before anything starts
results      what a finished cell came to: a small JSON file that can be committed
state        which cells are done, half done or still to do
runner       does what is left, cell by cell, each part a `lamer` command
statistics   means and intervals over seeds;  tables, figures, page, index   what is made of the results
"""
