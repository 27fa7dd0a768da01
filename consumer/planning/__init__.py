"""Which waiting slots are kept, in which order, and which are given up: pure bookkeeping.

`Planner` owns the waiting slots; queue, estimates and a moment go in, a plan with reasons comes
out. The same code runs in the worker, in the simulator and over a recorded topic.
"""

from consumer.planning.plan import GivenUp, Plan, Start, Waiting
from consumer.planning.planner import Planner
from vortex.rung import Rung

__all__ = ["GivenUp", "Plan", "Planner", "Rung", "Start", "Waiting"]
