"""Files, devices, memory, time, processes, the terminal, no network; and where a URL is given, stores."""
