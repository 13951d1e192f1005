"""A tower that is trained: the loop, what it reads and writes, and over how many processes it goes."""
