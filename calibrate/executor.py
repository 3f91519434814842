"""Who does the tasks of a stage that do not depend on each other: this process, or others.

A task is a plain object with a `name`; the work on it is a module's own function, so that both can
be sent to another process. The results do not depend on who does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

T_contra = TypeVar("T_contra", bound="Task", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
TaskT = TypeVar("TaskT", bound="Task")
R = TypeVar("R")

#: Told after each piece of a task's work, with whatever the work wants to tell.
Report = Callable[[Any], None]


class Task(Protocol):
    """Anything with a name that a person understands, such as "blocks.3.attn.qkv"."""

    @property
    def name(self) -> str:
        """Unique within a stage."""


class Work(Protocol[T_contra, R_co]):
    """What is done with a task; all of it follows from the task."""

    def __call__(self, task: T_contra, report: Report) -> R_co:
        """Do the task."""


class Executor(Protocol):
    """Does independent tasks."""

    def run(
        self,
        work: Work[TaskT, R],
        tasks: Iterable[TaskT],
        report: Callable[[str, Any], None] = lambda name, event: None,
    ) -> Iterator[tuple[str, R]]:
        """Do all tasks; yields each one's name and result when it is finished, in any order.

        Args:
            work: a function of a module.
            tasks: taken one by one, not long before they are done.
            report: called with a task's name and what its work reports, at the latest before the
                task's result is there.
        """


class InProcess:
    """Does one task after the other, here."""

    def run(
        self,
        work: Work[TaskT, R],
        tasks: Iterable[TaskT],
        report: Callable[[str, Any], None] = lambda name, event: None,
    ) -> Iterator[tuple[str, R]]:
        """Do all tasks in order; reports come while the work goes on."""
        for task in tasks:
            name = task.name
            yield name, work(task, lambda event, name=name: report(name, event))
