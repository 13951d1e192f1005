"""CLIPs that read Korean, each with a vocabulary of its own, behind the calls of kernel/models/clip.py."""
