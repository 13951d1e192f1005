"""What a training takes in hours and memory, estimated before it costs GPU hours: `python -m kernel plan --train`."""
