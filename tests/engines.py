"""Who makes the items of a work in tests."""

from kernel.pipeline.workers.here import Here
from kernel.pipeline.workers.processes import Processes
from kernel.system.devices import Device

HERE = Here(Device("cpu"))
TWO = Processes([Device("cpu"), Device("cpu")])
