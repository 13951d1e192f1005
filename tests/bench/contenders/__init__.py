"""One file a contender; each runs whole in a process of its own: `python -m tests.bench.contenders NAME JOB ...`."""
