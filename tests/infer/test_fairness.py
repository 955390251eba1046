"""Whose turn it is: the client served least, and nobody's time away is credit."""

import itertools
import random
from collections import Counter

from underhood.infer.fairness import FairQueue
from underhood.infer.request import Request
from underhood.lab.patch import Edit, applied

ARRIVALS = itertools.count()


def coming(queue: FairQueue, *clients: str, priority: float = 1.0) -> list[Request]:
    found = []
    for client in clients:
        request = Request([0], 1, client=client, priority=priority)
        request.arrival = next(ARRIVALS)
        queue.push(request)
        found.append(request)
    return found


def served(queue: FairQueue, turns: int, cost: int = 10) -> str:
    """The clients in the order in which they are chosen, each request costing the same."""
    order = ""
    for _ in range(turns):
        request = queue.pop()
        queue.charge(request, cost)
        order += request.client
    return order


def test_clients_take_turns() -> None:
    queue = FairQueue()
    coming(queue, *"aaaabbc")
    assert served(queue, 7) == "abcabaa"
    assert len(queue) == 0


def test_the_first_come_is_first_within_a_client() -> None:
    queue = FairQueue()
    first, second = coming(queue, "a", "a")
    assert queue.peek() is queue.pop() is first
    queue.push(first, head=True)  # pre-empted: it comes back to the front
    assert [queue.pop(), queue.pop()] == [first, second]


def test_a_long_request_costs_its_client_turns() -> None:
    queue = FairQueue()
    coming(queue, *"aaabbb")
    queue.charge(queue.pop(), 30)
    assert served(queue, 5) == "bbbaa"


def test_priority_is_a_share() -> None:
    queue = FairQueue()
    coming(queue, *"a" * 20)
    coming(queue, *"b" * 20, priority=3)
    assert Counter(served(queue, 16)) == {"a": 4, "b": 12}


def test_who_comes_late_owes_nothing_and_has_saved_nothing() -> None:
    queue = FairQueue()
    coming(queue, *"aaaaaaaa")
    served(queue, 4)
    coming(queue, *"bbbb")
    assert served(queue, 6) == "bababa"


def test_a_flood_of_names_is_not_kept() -> None:
    queue = FairQueue()
    coming(queue, *map(str, range(100)))
    served(queue, 100)
    queue.forget()
    assert (queue.served, queue.lines, queue.clock) == ({}, {}, 0)


def test_what_is_taken_out_is_gone() -> None:
    queue = FairQueue()
    one, two = coming(queue, "a", "a")
    queue.remove(one)
    queue.remove(one)
    assert queue.pop() is two
    queue.remove(two)
    assert not queue.lines


def widest_gap() -> float:
    """Three clients who always wait, with requests of random cost: how far apart their services ever are, in the largest cost."""
    rng, queue, total = random.Random(0), FairQueue(), Counter[str]()
    gap = 0
    coming(queue, *"abcabc")
    for _ in range(2_000):
        request = queue.pop()
        cost = rng.randint(1, 100) if request.client == "a" else rng.randint(1, 10)
        queue.charge(request, cost)
        total[request.client] += cost
        coming(queue, request.client)
        gap = max(gap, max(total.values()) - min(total[c] for c in "abc"))
    return gap / 100


def test_clients_that_wait_are_served_alike() -> None:
    """The gap does not grow with time: it stays below the cost of one request."""
    assert widest_gap() <= 1


def test_without_counters_the_greedy_client_wins() -> None:
    """Negative controls: first come first served over all clients, a charge that is forgotten, and credit for time away."""
    fault = Edit("underhood.infer.fairness:FairQueue.peek", "(self.served[r.client], r.arrival)", "r.arrival")
    with applied([fault]):
        assert widest_gap() > 100
    with applied([Edit("underhood.infer.fairness:FairQueue.charge", "+ tokens / request.priority", "+ 0")]):
        assert widest_gap() > 100
    queue = FairQueue()
    coming(queue, *"aaaaaaaa")
    served(queue, 4)
    with applied([Edit("underhood.infer.fairness:FairQueue.push", "max(self.served.get(request.client, 0.0), self.clock)", "0.0")]):
        coming(queue, *"bbbb")
    assert served(queue, 4) == "bbbb"
