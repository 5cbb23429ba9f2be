"""What runs user code, behind one port."""

from yadtq.runners.inline import InlineRunner
from yadtq.runners.protocol import Runner, Sink

__all__ = ["InlineRunner", "Runner", "Sink"]
