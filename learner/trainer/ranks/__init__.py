"""The processes that train one model together, a GPU each: their group, their shares of the packs, their shards."""
