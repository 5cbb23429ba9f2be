"""Mutants: the product changed in one place, and the test that has to turn red by that. A survivor is a failure."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """One change. It stays inside the process, and goes with the patch.

    Args:
        breaks: The rule that does not hold any more.
        apply: Makes the change; raises LookupError where what it changes is not there any more.
        red: The test that notices.
    """

    name: str
    breaks: str
    apply: Callable[[pytest.MonkeyPatch], None]
    red: Callable[..., None]

    def __str__(self) -> str:
        return self.name


class Mutants(list[Mutant]):
    """The mutants of one module, in its order."""

    def add(
        self, breaks: str, red: Callable[..., None]
    ) -> Callable[[Callable[[pytest.MonkeyPatch], None]], Callable[[pytest.MonkeyPatch], None]]:
        def keep(apply: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
            self.append(Mutant(apply.__name__, breaks, apply, red))
            return apply

        return keep


def turns_red(mutant: Mutant, ground: Callable[[], AbstractContextManager[tuple[object, ...]]]) -> None:
    """Run the test on sound ground, where it is green, and on changed ground, where one of its own lines has to say no.

    An error of another kind, or an assertion of the product, would show only that the mutant is ill made.
    """
    with ground() as given:
        mutant.red(*given)
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        red: AssertionError | None = None
        try:
            with ground() as given:
                mutant.red(*given)
        except AssertionError as error:
            red = error
    if red is None:
        pytest.fail(f"{mutant} survives ({mutant.breaks}): {mutant.red.__name__} does not notice")
    said = Path(pytest.ExceptionInfo.from_exception(red).traceback[-1].path)
    assert TESTS in said.parents, f"{mutant} breaks down by itself: {red}"
