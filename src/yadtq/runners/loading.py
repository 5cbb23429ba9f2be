"""The import of a user's app, `module:app`, by the worker and by each of its runners.

One invariant: what the import raises leaves here as a SettingsError that names the module, the error and the user's own
lines; only Ctrl+C stays what it is.
"""

import importlib
import os
import sys
import traceback
from types import ModuleType

from yadtq.errors import SettingsError, YadtqError

_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep


def find(target: str) -> object:
    """Import a module, from the working folder too, and return what the target names in it; None: there is no such.

    Args:
        target: `module:name`; `module` alone is `module:app`.

    Raises:
        SettingsError: There is no such module, or it cannot be imported.
    """
    module_name, name = _parts(target)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return getattr(_import(module_name), name, None)


def no_app(target: str) -> SettingsError:
    """What is raised where a target names something else than an app."""
    module_name, name = _parts(target)
    return SettingsError(f"{module_name} has no yadtq.App named {name!r}; write module:app")


def _parts(target: str) -> tuple[str, str]:
    module_name, _, name = target.partition(":")
    return module_name, name or "app"


def _import(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (YadtqError, KeyboardInterrupt):  # the first says all there is to say
        raise
    except BaseException as error:  # the import runs the user's code: anything can come out of it, sys.exit() too
        # Where a module that it imports is missing, it is there itself.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module_name + ".").startswith(missing + "."):
            raise SettingsError(f"there is no module {module_name!r} in this folder or environment") from None
        raise SettingsError(_cannot_import(module_name, error)) from error


def _cannot_import(module_name: str, error: BaseException) -> str:
    """Name the module and the error, and below them the lines of the user's own that led there."""
    import sysconfig  # a runner that starts well does without

    frames = [(frame.filename, frame.lineno, frame.line) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):  # of a file that never ran
        frames.append((error.filename or "?", error.lineno, (error.text or "").strip()))
    others = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    outside = [frame for frame in frames if not frame[0].startswith(("<frozen importlib", _OURS, importlib.__file__))]
    own = [frame for frame in outside if not frame[0].startswith(tuple(others))] or outside  # an app may be installed
    lines = [f"\n  {file.removeprefix(os.getcwd() + os.sep)}:{number}: {line}" for file, number, line in own]
    problem = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        problem = f"it ends the process, by {error!r}"
    return f"module {module_name!r} cannot be imported: {problem}{''.join(lines)}"
