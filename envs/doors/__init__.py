"""Doors: K closed doors, one prize, one opening an episode; a miss tells on which side the prize lies.

- factory.py: configuration, and the factory behind the name
- game.py: the rules, and which doors are still possible
- prompts.py: compact and full prompts
- env.py: the environment: parsing, anchor states, scripted play
- references.py: exact pass@k of the best policy and of two random ones
"""
