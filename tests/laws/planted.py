"""Faults to plant in a copy of avm, one at a time: the laws have to find each of them. `scripts/mutants` does it.

Each is a piece of source that stands once in its file, what is put in its place, the file, and the laws that should
find it first. When the source has changed so that a piece is not found any more, the check fails and says which:
a fault that cannot be planted proves nothing.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Planted:
    """One fault: `old` in file avm/`path` becomes `new`; `law` is where it should be found."""

    name: str
    path: str
    old: str
    new: str
    law: str


def _faults(path: str, law: str, *faults: tuple[str, str, str]) -> list[Planted]:
    return [Planted(name, path, old, new, law) for name, old, new in faults]


PLANTED: list[Planted] = [
    *_faults(
        "actors/cell.py",
        "order",
        ("the newest goes first (S1)", "        box.append(letter)\n", "        box.appendleft(letter)\n"),
        ("what overtakes goes backwards (S8)", "self.lane.append(letter)", "self.lane.appendleft(letter)"),
    ),
    *_faults(
        "actors/mailbox.py",
        "order",
        (
            "the first goes last (S1)",
            "cell.mailbox.appendleft(cell.letter)",
            "cell.mailbox.append(cell.letter)",
        ),
        (
            "postponed events go last (S7)",
            "box.extendleft(reversed(more.postponed))",
            "box.extend(more.postponed)",
        ),
        (
            "postponed events go backwards (S7)",
            "box.extendleft(reversed(more.postponed))",
            "box.extendleft(more.postponed)",
        ),
    ),
    *_faults(
        "actors/mailbox.py",
        "life",
        ("the last to continue goes first (S28)", "cell.lane.insert(more.continuing,", "cell.lane.insert(0,"),
    ),
    *_faults(
        "actors/ending.py",
        "links",
        (
            "a kill is an exit like any (S36)",
            "isinstance(reason, Kill) and not via_link:",
            "isinstance(reason, str):",
        ),
        (
            "Normal ends others (S36)",
            "        if not to_itself and not (traps and from_parent):\n            return\n",
            "",
        ),
        (
            "Normal does not end oneself (S36)",
            "to_itself = sender is cell and not via_link",
            "to_itself = False",
        ),
        ("who is killed ends normally (S37)", "    die(cell, Killed())\n", "    die(cell, Normal())\n"),
        (
            "nobody hears of an end (S38)",
            "    kernel.announcements.add(cell, reason)\n    if cell.actor",
            "    if cell.actor",
        ),
    ),
    *_faults(
        "actors/ending.py",
        "supervisors",
        ("the parent's exit can be trapped (S39)", "if traps and not from_parent:", "if traps:"),
        (
            "children outlive their parent (S62)",
            "    order_end(cell, Killed() if isinstance(reason, Kill) else reason)\n",
            "    return\n",
        ),
    ),
    *_faults(
        "actors/ending.py",
        "life",
        ("an order does not interrupt (S95)", "        _interrupt(cell, inside)\n", "        pass\n"),
        ("names outlive their holder (S32)", "    kernel.names.forget(cell)\n", ""),
        (
            "timers outlive their actor (S24)",
            "            kernel.timers.cancel(timer)\n",
            "            pass\n",
        ),
        (
            "stopping does not run (S30)",
            "if started and cell.behaviour.has_stopping:",
            "if started and not cell.behaviour.has_stopping:",
        ),
        (
            "an error while stopping is lost (S30)",
            "                reason = reason_of(cell.kernel, error)\n            elif",
            "                pass\n            elif",
        ),
        (
            "what waited is not told of (S31)",
            '            undelivered(cell.kernel, "ended", cell.pid_text, letter)\n',
            "            pass\n",
        ),
    ),
    *_faults(
        "actors/ending.py",
        "router",
        ("members outlive their end (S82)", "    kernel.groups.forget(cell)\n", ""),
    ),
    *_faults(
        "actors/ending.py",
        "asks",
        (
            "asks of one that ends wait (S14)",
            "    elif current is not None:\n        fail_ask(cell, current, reason)\n",
            "",
        ),
        (
            "the ask of one that has no other waits (S14)",
            "        cell.letter = None\n        fail_ask(cell, current, reason)\n",
            "        cell.letter = None\n",
        ),
        (
            "asks in the mailbox are told something else (S14)",
            "        fail_ask(cell, letter, reason)\n",
            "",
        ),
        (
            "a deferred reply is never given up (S17)",
            "            _refuse(owed, exited(",
            "            (exited(",
        ),
    ),
    *_faults(
        "actors/running.py",
        "asks",
        (
            "the reply goes out before stopping (S21)",
            "            if cell.ending is not None:\n                cell.extras().last_reply",
            "            if cell.ending is cell:\n                cell.extras().last_reply",
        ),
    ),
    *_faults(
        "actors/running.py",
        "order",
        (
            "the newest of the postponed is the oldest (S7)",
            "more.postponed.append(letter)",
            "more.postponed.insert(0, letter)",
        ),
    ),
    *_faults(
        "actors/running.py",
        "life",
        ("Ignore is no answer (S25)", "if verdict is Ignore:", "if verdict == 'Ignore':"),
        ("who ignores its start stays (S25)", "    die(cell, Normal())\n", "    pass\n"),
    ),
    *_faults(
        "actors/start.py",
        "life",
        (
            "a start that failed leaves the actor (S24)",
            "        if cell.is_alive():\n            cell.kill()\n",
            "",
        ),
        (
            "an __init__ that failed leaves the place (S24)",
            "    if cell.is_alive():\n        discard(cell, reason)\n",
            "",
        ),
        (
            "start_timeout is not looked at (S27)",
            "        cell.kernel.deadlines.add(timeout, start, _too_late, cell)\n",
            "        pass\n",
        ),
    ),
    *_faults(
        "actors/reply.py",
        "asks",
        (
            "late replies are not counted (S16)",
            "        cell.kernel.late_replies += 1\n",
            "        pass\n",
        ),
        ("to defer is to answer (S17)", "            more.deferred = True\n", ""),
    ),
    *_faults(
        "actors/asking.py",
        "asks",
        ("one may ask oneself (S18)", "    if target is sender:\n", "    if target is None:\n"),
        ("a ring waits for ever (S18)", "                raise _cycle(ring)\n", "                break\n"),
        (
            "timeouts are not looked at (S13)",
            "        target.kernel.deadlines.add(timeout, future, _too_late, target, letter[0].__class__)\n",
            "        pass\n",
        ),
    ),
    *_faults(
        "actors/links.py",
        "links",
        ("a link goes one way (S41)", "    other.links[one] = None\n", ""),
        ("unlink forgets one side (S44)", "        target.links.pop(cell, None)\n", "        pass\n"),
        (
            "no Down of the dead (S47)",
            "        watcher.receive((Down(made, target.pid, name, gone), None, None, None))\n",
            "",
        ),
        (
            "no exit of the dead (S42)",
            '        exit_signal(one, other, NoProc(f"{other.pid_text} has ended."), via_link=True)\n',
            "",
        ),
        (
            "demonitor forgets one side (S48)",
            "watchers.pop(number, None) is not None\n    if flush",
            "number in watchers\n    if flush",
        ),
    ),
    *_faults(
        "actors/links.py",
        "order",
        (
            "a Down overtakes messages (S50)",
            "            watcher.receive((Down(Monitor(number)",
            "            watcher.overtake((Down(Monitor(number)",
        ),
    ),
    *_faults(
        "actors/registry.py",
        "router",
        ("a name has many holders (S78)", "        if holder is not None:\n", "        if holder is cell:\n"),
        (
            "an end ends one membership only (S82)",
            "for group in self._groups.pop(cell, ()):",
            "for group in set(self._groups.pop(cell, ())):",
        ),
    ),
    *_faults(
        "actors/timers.py",
        "timers",
        (
            "equal timers fire backwards (S88)",
            "self.sequence < other.sequence",
            "self.sequence > other.sequence",
        ),
        (
            "cancel does not cancel (S86)",
            "            return None\n        timer.action = None\n",
            "            return None\n",
        ),
    ),
    *_faults(
        "actors/delivery.py",
        "router",
        (
            "members get one copy however often they joined (S82)",
            "    for member in members:\n        if kernel.taps:",
            "    for member in dict.fromkeys(members):\n        if kernel.taps:",
        ),
        (
            "a lost event is no dead letter (S3)",
            '        undelivered(kernel, "dead" if isinstance(dest, (Ref, Pid)) else',
            '        (lambda *_: None)(kernel, "dead" if isinstance(dest, (Ref, Pid)) else',
        ),
    ),
    *_faults(
        "supervision/supervisor.py",
        "supervisors",
        (
            "transient is permanent (S63)",
            'if spec.restart == "permanent" or (abnormal and spec.restart == "transient"):',
            'if spec.restart == "permanent" or spec.restart == "transient":',
        ),
        (
            "rest_for_one restarts the elder (S64)",
            "children[children.index(child) :]",
            "children[: children.index(child) + 1]",
        ),
        (
            "siblings stop in the order of their start (S64)",
            "        for member in reversed(members):\n",
            "        for member in members:\n",
        ),
        (
            "temporary siblings are restarted (S63)",
            '[member for member in members if member.spec.restart != "temporary"]',
            "members",
        ),
        (
            "children stop in the order of their start (S56)",
            "        for child in reversed(list(self._by_id.values())):\n",
            "        for child in list(self._by_id.values()):\n",
        ),
        (
            "the end of one that was stopped is a crash (S70)",
            "            self._running.pop(child.serial, None)\n        child.becomes",
            "        child.becomes",
        ),
        (
            "the last significant child does not count (S72)",
            "return not any(c.spec.significant",
            "return any(c.spec.significant",
        ),
        (
            "a child whose start failed is not tried again (S68)",
            "                self.tell(self.pid, _TryAgain(member.spec.id, member.turn))\n",
            "",
        ),
    ),
    *_faults(
        "supervision/intensity.py",
        "supervisors",
        ("a decision of the limit's age is forgotten (S66)", "times[0] < oldest", "times[0] <= oldest"),
        ("one restart too few (S66)", "len(times) <= self.max_restarts", "len(times) < self.max_restarts"),
        (
            "the first backoff is the second (S73)",
            "min(failures - 1, _MAX_EXPONENT)",
            "min(failures, _MAX_EXPONENT)",
        ),
        ("a backoff has no limit (S73)", "min(grown, self.max)", "grown"),
    ),
    *_faults(
        "supervision/lifecycle.py",
        "supervisors",
        (
            "who is late is not killed (S58)",
            "        except AskTimeout:\n            owner.kill(pid)\n",
            "        except AskTimeout:\n            pass\n",
        ),
        ("who was killed ended as told (S60)", 'return spec.shutdown == "brutal_kill"', "return True"),
        ("a supervisor does not hear of ends (S43)", "            link=True,\n", ""),
    ),
    *_faults(
        "router/strategies.py",
        "router",
        (
            "round robin stands still",
            "        self._turn = turn + 1\n        return (cells[turn],)",
            "        return (cells[turn],)",
        ),
        ("the most loaded is asked", "load < least", "load > least"),
        (
            "keys move when a member leaves (S85)",
            "        return (max(cells, key=lambda cell: _mix(number ^ self._mark(cell))),)",
            "        return (cells[number % len(cells)],)",
        ),
        (
            "a broadcast reaches one",
            '        """Return the cells that get this event."""\n        return self.living(kernel)\n',
            '        """Return the cells that get this event."""\n        return self.living(kernel)[:1]\n',
        ),
    ),
]
