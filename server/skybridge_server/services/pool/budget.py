"""What all instances of a server may take of its host together."""

from __future__ import annotations

from dataclasses import dataclass

from skybridge_server.models.functions import Resources


@dataclass(frozen=True, slots=True)
class Cost:
    """What some instances take. Memory in bytes, processor time in thousandths of a core."""

    instances: int = 0
    memory_bytes: int = 0
    cpu_millis: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.instances + other.instances,
            self.memory_bytes + other.memory_bytes,
            self.cpu_millis + other.cpu_millis,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.instances - other.instances,
            self.memory_bytes - other.memory_bytes,
            self.cpu_millis - other.cpu_millis,
        )

    def within(self, other: Cost) -> bool:
        return (
            self.instances <= other.instances
            and self.memory_bytes <= other.memory_bytes
            and self.cpu_millis <= other.cpu_millis
        )


def cost_of(resources: Resources) -> Cost:
    """Return what an instance with these limits takes: all that it may use."""
    return Cost(1, resources.memory_bytes, resources.cpu_millis)


class Budget:
    """What there is, what is taken, and how much of that will be free soon."""

    def __init__(self, most: Cost) -> None:
        self.most = most
        self.taken = Cost()
        self.leaving = Cost()
        """Part of `taken`: instances that are being removed."""
        self.draining = Cost()
        """Part of `taken`: instances that will be removed once what runs on them has ended."""

    def fits(self, cost: Cost) -> bool:
        """Tell whether this can be taken now."""
        return (self.taken + cost).within(self.most)

    def will_fit(self, cost: Cost) -> bool:
        """Tell whether this can be taken once those that are being removed have gone."""
        return (self.taken - self.leaving + cost).within(self.most)

    def may_fit(self, cost: Cost) -> bool:
        """Tell whether this can be taken at some time, though nothing else is asked to go."""
        return (self.taken - self.leaving - self.draining + cost).within(self.most)

    def take(self, cost: Cost) -> None:
        self.taken += cost

    def drain(self, cost: Cost) -> None:
        """Note that what is taken will be given back at some time."""
        self.draining += cost

    def leave(self, cost: Cost, *, drained: bool) -> None:
        """Note that what is taken, and perhaps drained before, is given back soon."""
        if drained:
            self.draining -= cost
        self.leaving += cost

    def give_back(self, cost: Cost) -> None:
        """Give back what was noted to leave."""
        self.leaving -= cost
        self.taken -= cost
