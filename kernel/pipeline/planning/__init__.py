"""Memory and time of a run and of building a bank, estimated before they cost GPU hours: `python -m kernel plan`."""
