"""MineSweeper: open all cells without a mine; the first cell is opened at reset and is safe.

- factory.py: configuration, and the factory behind the name
- field.py: the rules
- generator.py: the board of a seed
- parsing.py: which cell a response names
- prompts.py: full, compact and dense prompts
- references.py: scripted players and their pass@k
- env.py: the environment: rewards, anchor states, scripted play
"""
