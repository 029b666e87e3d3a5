"""The command line: one module per command, absl flags, `--flagfile` and `--debug` everywhere.

Exit codes: 0 done; 2 the user's input is wrong (one line); 75 preempted and saved, run the same again; 1 anything else.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import math
import pathlib
import sys
import traceback
import warnings
from collections.abc import Sequence

from absl import flags, logging

from scaling_jax.errors import (
    PREEMPTED,
    USER_ERROR,
    EngineError,
    Preempted,
    UserError,
    describe_foreign,
    is_disk_full,
)

# Command -> (module with define_flags() and main(args, flags), what it does). Modules load only when asked for.
COMMANDS = {
    "plan": ("scaling_jax.cli.plan", "show the runs of a study: N, D, FLOPs, memory, time; trains nothing"),
    "run": ("scaling_jax.cli.run", "train what is missing of a study, then collect, fit and report"),
    "watch": ("scaling_jax.cli.watch", "show how a study trains, from elsewhere, also as a page"),
    "collect": ("scaling_jax.cli.collect", "write a workdir's results table as .csv or .parquet"),
    "fit": ("scaling_jax.cli.fit", "fit a law to a results table, from here or from elsewhere"),
    "compare": ("scaling_jax.cli.compare", "how much less compute one recipe needs than another"),
    "suggest": ("scaling_jax.cli.suggest", "which runs to make next, for their FLOPs"),
    "recommend": ("scaling_jax.cli.recommend", "what to train with a budget, or what a goal costs"),
    "check-transfer": ("scaling_jax.cli.check_transfer", "does a rate tuned on a small scale serve the large ones"),
    "report": ("scaling_jax.cli.report", "fit and draw a workdir's results again"),
    "evaluate": ("scaling_jax.cli.evaluate", "score finished runs on other data, compressed, or as ensembles"),
    "sample": ("scaling_jax.cli.sample", "text from a trained model, or the same prompt down the ladder"),
    "export": ("scaling_jax.cli.export", "write a trained model as safetensors, jax.export and for transformers"),
    "classify": ("scaling_jax.cli.classify", "classes of images by a trained model, and a contact sheet"),
    "serve": ("scaling_jax.cli.serve", "generate and classify over HTTP, OpenAI-style"),
    "clean": ("scaling_jax.cli.clean", "drop what only resuming needs from a finished workdir"),
    "bench": ("scaling_jax.cli.bench", "measure what this machine does; plan uses it afterwards"),
    "data": ("scaling_jax.cli.data", "list, prepare, show or clear data sets"),
}
# Package -> the extra that brings it, where that is not "train".
EXTRAS = {"safetensors": "export", "flatbuffers": "export", "starlette": "serve", "uvicorn": "serve"}


def entry() -> None:
    """The console script."""
    code = main(sys.argv)
    gc.freeze()  # else Python looks for garbage among all that lived, for half a second, before it exits
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    command = next((a for a in argv[1:] if not a.startswith("-")), None)
    if command is None or command == "help":
        print(usage())
        return 0 if command == "help" or any(a.startswith(("-h", "--help")) for a in argv[1:]) else USER_ERROR
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return _complain(f"unknown command {command!r}{hint} (known: {', '.join(COMMANDS)})")
    rest = list(argv[1:])
    rest.remove(command)
    try:
        return _run(command, rest)
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        _say("stopped; run the same command again")
        return PREEMPTED
    except Exception as error:
        if _debugging():
            traceback.print_exc()
        return _report(error)


def _run(command: str, rest: Sequence[str]) -> int:
    """Parses the flags of a command and runs it."""
    module = importlib.import_module(COMMANDS[command][0])
    _forget_flags()
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
    module.define_flags()
    if any(a in ("-h", "--help", "--helpfull") for a in rest):
        ours = [name for name in flags.FLAGS.flags_by_module_dict() if name.startswith("scaling_jax.")]
        helps = "\n".join(flags.FLAGS.module_help(name) for name in ours)
        print(f"scaling-jax {command}: {COMMANDS[command][1]}\n\n{helps}")
        return 0
    args = flags.FLAGS([f"scaling-jax {command}", *rest])[1:]
    _check_given()
    logging.use_absl_handler()
    with warnings.catch_warnings():
        if not _debugging():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflow in numbers far off the data
            warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")  # no path, no line of ours
        return module.main(args, flags.FLAGS) or 0


def _check_given() -> None:
    """Raises UserError for a flag that is given without a value, or as nan: no flag means anything by it."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        for value in flag.value or [""] if isinstance(flag.value, list) else [flag.value]:
            empty = isinstance(value, str) and not value.strip()
            if flag.present and (empty or (isinstance(value, float) and math.isnan(value))):
                raise UserError(f"--{name}={value}: give a value, or leave the flag out")


def _debugging() -> bool:
    return "debug" in flags.FLAGS and flags.FLAGS["debug"].value is True


def _report(error: Exception) -> int:
    """Says in one line what went wrong; returns the exit code."""
    if isinstance(error, (flags.Error, UserError)) or _is_fit_error(error):
        return _complain(str(error))
    if isinstance(error, Preempted):
        _say(f"{error}; run the same command again to resume")
        return PREEMPTED
    if isinstance(error, EngineError):
        _say(str(error))
        return error.code
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] != "scaling_jax":
        extra = EXTRAS.get((error.name or "").partition(".")[0], "train")
        return _complain(
            f"this command needs {error.name!r}, which is not installed: pip install 'scaling_jax[{extra}]'"
        )
    if is_disk_full(error):
        _say("the disk is full; everything saved is intact: free some space and run the same command again")
        return 1
    if (message := describe_foreign(error)) is not None:
        return _complain(message)
    place = traceback.extract_tb(error.__traceback__)[-1]
    _say(
        f"internal error: {type(error).__name__}: {error} ({pathlib.Path(place.filename).name}:{place.lineno}); "
        "--debug shows the traceback"
    )
    return 1


def usage() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return (
        "usage: scaling-jax COMMAND [--flag=value ...]\n\n"
        + "\n".join(lines)
        + "\n\n`scaling-jax COMMAND --help` shows its flags; --flagfile=FILE reads them from a file; --debug shows the "
        "traceback of an error."
    )


def _forget_flags() -> None:
    """Removes the flags that an earlier call in this process defined: commands share names."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("scaling_jax."):
            for flag in list(defined):
                delattr(flags.FLAGS, flag.name)


def _complain(message: str) -> int:
    _say(message)
    return USER_ERROR


def _say(message: str) -> None:
    print("scaling-jax: " + " ".join(message.split()), file=sys.stderr)


def _is_fit_error(error: Exception) -> bool:
    fit_error = getattr(sys.modules.get("scaling_jax.fitting.errors"), "FitError", None)
    return fit_error is not None and isinstance(error, fit_error)
