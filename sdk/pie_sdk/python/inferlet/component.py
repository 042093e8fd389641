"""The generic component: runs programs given as source."""

import wit_world
from componentize_py_types import Err

import inferlet
from inferlet import entry, image, stdlib

_ = inferlet
stdlib.seal()


class WitWorld(wit_world.WitWorld):
    """The world's export."""

    def run(self, input: str) -> str:  # noqa: A002 - the name of the WIT parameter
        try:
            return entry.run_source(input)
        except entry.ProgramFailedError as exc:
            raise Err(str(exc)) from None


image.settle()
