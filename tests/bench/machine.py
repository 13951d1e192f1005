"""What a figure was measured on."""

import os
import platform
from pathlib import Path
from typing import Any

from kernel.system.devices import host_memory


def machine() -> dict[str, Any]:
    """Example: {"processor": "AMD EPYC", "cores": 2, "memory_bytes": 25276071936, "system": "Linux-6.1-x86_64"}"""
    processor = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.is_file():
        names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    system = platform.platform()
    return {"processor": processor, "cores": os.cpu_count(), "memory_bytes": host_memory(), "system": system}


def machine_named() -> str:
    """Example: "2 cores of AMD EPYC, no GPU"; for measurements that use none."""
    own = machine()
    return f"{own['cores']} cores of {own['processor']}, no GPU"
