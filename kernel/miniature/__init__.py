"""The drawn world, its models and the demo; never shipped."""
