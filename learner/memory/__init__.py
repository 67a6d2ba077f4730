"""How much memory the trainer takes, as pure functions of a model's sizes and the settings. No torch.

architecture   the sizes of a model
activations    what layers keep for the backward pass
trainer        everything the trainer holds at its peak
advice         what to change where that is more than a card has
"""
