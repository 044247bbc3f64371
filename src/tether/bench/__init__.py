"""`tether bench`: how fast algorithms train and act here, against the matmul rate of the same process.

settings.py what is measured; rounds.py alternating rounds of programs; training.py and acting.py the rows; suite.py
all of them, one after the other, into a file; results.py that file; table.py and pictures.py for people.
"""

from tether.bench.acting import act_latency, bench_acting
from tether.bench.counting import matmul_flops, update_flops
from tether.bench.options import BenchOptions
from tether.bench.results import committed_costs, merge_figures, read_figures
from tether.bench.suite import bench
from tether.bench.table import bench_table

__all__ = [
    "BenchOptions",
    "act_latency",
    "bench",
    "bench_acting",
    "bench_table",
    "committed_costs",
    "matmul_flops",
    "merge_figures",
    "read_figures",
    "update_flops",
]
