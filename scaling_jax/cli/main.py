"""The command line: `scaling-jax plan | run | collect | fit | report | data`, absl flags, `--flagfile` everywhere.

Exit codes: 0 done; 2 the user's input is wrong (one line); 75 preempted and saved, run the same again; 1 anything else.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags, logging

from scaling_jax.errors import PREEMPTED, USER_ERROR, Preempted, UserError, is_disk_full

# Command -> (module with define_flags() and main(args, flags), what it does). Modules load only when asked for.
COMMANDS = {
    "plan": ("scaling_jax.cli.plan", "show the runs of a study: N, D, FLOPs, memory, time; trains nothing"),
    "run": ("scaling_jax.cli.run", "train what is missing of a study, then collect, fit and report"),
    "collect": ("scaling_jax.cli.collect", "write a workdir's results table as .csv or .parquet"),
    "fit": ("scaling_jax.cli.fit", "fit a law to a results table, from here or from elsewhere"),
    "report": ("scaling_jax.cli.report", "fit and draw a workdir's results again"),
    "data": ("scaling_jax.cli.data", "list, prepare, show or clear data sets"),
}


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv))


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    command = next((a for a in argv[1:] if not a.startswith("-")), None)
    if command is None or command == "help":
        print(usage())
        return 0 if command == "help" or any(a.startswith(("-h", "--help")) for a in argv[1:]) else USER_ERROR
    if command not in COMMANDS:
        return _complain(f"unknown command {command!r}; known: {', '.join(COMMANDS)}")
    rest = list(argv[1:])
    rest.remove(command)
    try:
        module = importlib.import_module(COMMANDS[command][0])
        _forget_flags()
        module.define_flags()
        if any(a in ("-h", "--help", "--helpfull") for a in rest):
            ours = [name for name in flags.FLAGS.flags_by_module_dict() if name.startswith("scaling_jax.")]
            helps = "\n".join(flags.FLAGS.module_help(name) for name in ours)
            print(f"scaling-jax {command}: {COMMANDS[command][1]}\n\n{helps}")
            return 0
        args = flags.FLAGS([f"scaling-jax {command}", *rest])[1:]
        logging.use_absl_handler()
        return module.main(args, flags.FLAGS) or 0
    except flags.Error as error:
        return _complain(str(error))
    except UserError as error:
        return _complain(str(error))
    except Preempted as error:
        print(f"scaling-jax: {error}; run the same command again to go on", file=sys.stderr)
        return PREEMPTED
    except ModuleNotFoundError as error:
        return _missing(error)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if _is_fit_error(error):
            return _complain(str(error))
        if is_disk_full(error):
            print(
                "scaling-jax: the disk is full; what was saved stands: free some space and run the same command again",
                file=sys.stderr,
            )
            return 1
        traceback.print_exc()
        return 1


def usage() -> str:
    lines = [f"  {name:<8} {what}" for name, (_, what) in COMMANDS.items()]
    return (
        "usage: scaling-jax COMMAND [--flag=value ...]\n\n"
        + "\n".join(lines)
        + ("\n\n`scaling-jax COMMAND --help` shows its flags; --flagfile=FILE reads them from a file.")
    )


def _forget_flags() -> None:
    """Commands share flag names, so what an earlier call in this process defined goes first."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("scaling_jax."):
            for flag in list(defined):
                delattr(flags.FLAGS, flag.name)


def _complain(message: str) -> int:
    print("scaling-jax: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR


def _missing(error: ModuleNotFoundError) -> int:
    if (error.name or "").partition(".")[0] == "scaling_jax":
        traceback.print_exc()
        return 1
    return _complain(f"this command needs {error.name!r}, which is not installed: pip install 'scaling_jax[train]'")


def _is_fit_error(error: Exception) -> bool:
    fitting: Callable | None = getattr(sys.modules.get("scaling_jax.fitting.errors"), "FitError", None)
    return fitting is not None and isinstance(error, fitting)
