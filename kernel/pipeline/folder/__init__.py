"""The run folder: sealed shards, and what each stage wrote into them."""
