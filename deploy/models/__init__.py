"""Models for a run: the configured folder, or a pocket model that was taught the output format.

folders       which files make a usable model folder
warmstart     makes a pocket model, and teaches a model the output format
preparation   the model of a run: the configured one, or one made once and kept
"""
