"""Files, devices, memory, time, processes, the terminal, and no network."""
