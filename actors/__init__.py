"""Actors: whole trials played against inference servers, streamed to the learner. No torch."""
