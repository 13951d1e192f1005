"""A real Ray cluster on this machine, in a process of its own: `python -m tests.cluster.nodes`.

Told over stdin, a JSON line each, answered likewise: {"add": CPUS} joins a machine, {} ends all. Its first answer is
the cluster's address; every answer names the raylets by process.
"""

import json
import os
import sys


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from ray.cluster_utils import Cluster

    settings = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **settings})
    raylets: list[int] = []

    def answer() -> None:
        print(json.dumps({"address": cluster.address, "raylets": raylets}), file=answers, flush=True)

    answer()
    for line in sys.stdin:
        told = json.loads(line)
        if not told:
            break
        node = cluster.add_node(num_cpus=told["add"], **settings)
        raylets.append(node.all_processes["raylet"][0].process.pid)
        answer()
    cluster.shutdown()


if __name__ == "__main__":
    main()
