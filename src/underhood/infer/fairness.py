"""Whose turn it is: among the clients that wait, the one served least, so that a flood from one delays the others by little.

A client's counter grows with the tokens that its prompts have computed and its answers get, divided by the request's priority; the least counter goes
next (the virtual token counter of Sheng et al. 2024, arXiv 2401.00588). Who comes after a pause starts level with whoever was served last: time away
is no credit.
"""

from collections import deque

from underhood.infer.request import Request


class FairQueue:
    """Requests that wait: first come first served within a client, the client served least first."""

    def __init__(self) -> None:
        self.lines: dict[str, deque[Request]] = {}  # only of clients that wait
        self.served: dict[str, float] = {}
        self.clock = 0.0  # the counter of the client last chosen

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))

    def push(self, request: Request, *, head: bool = False) -> None:
        """To the end of its client's line, or (``head``) back to its beginning."""
        if request.client not in self.lines:
            self.lines[request.client] = deque()
            self.served[request.client] = max(self.served.get(request.client, 0.0), self.clock)
        line = self.lines[request.client]
        line.appendleft(request) if head else line.append(request)

    def peek(self) -> Request:
        """The next one; of clients served alike, the one that has waited longest."""
        return min((line[0] for line in self.lines.values()), key=lambda r: (self.served[r.client], r.arrival))

    def remove(self, request: Request) -> None:
        """Take a request out, if it is there."""
        line = self.lines.get(request.client, deque())
        if request in line:
            line.remove(request)
        if not line:
            self.lines.pop(request.client, None)

    def pop(self) -> Request:
        """Take the next one out."""
        request = self.peek()
        self.clock = self.served[request.client]
        self.remove(request)
        return request

    def charge(self, request: Request, tokens: int) -> None:
        """The request's client was given ``tokens``."""
        self.served[request.client] = self.served.get(request.client, 0.0) + tokens / request.priority

    def forget(self) -> None:
        """Nobody waits and nobody runs: everybody is level again, and names of clients do not pile up."""
        self.served.clear()
        self.clock = 0.0
