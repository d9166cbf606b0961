"""What every job's command shares: arguments, Ray, logging, and how a failure is told."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from ray_jobs import reaching
from ray_jobs.command_line import Parser, overrides_of
from ray_jobs.interrupts import EXIT_INTERRUPTED, led_to, note_told
from setok.config import Job, dump_config, load_config
from setok.errors import ConfigError, SetokError, TrainingError

J = TypeVar("J", bound=Job)

EXIT_ERROR = 2
EXIT_STOPPED = 75
"""A run was asked to stop, and has saved: ``EX_TEMPFAIL`` of sysexits.h, "try again later"."""
GIBIBYTE = 2**30
RAYS_OWN_NOISE = (
    r"Actor with class name: 'PreemptionWatcher'"
    r"|`ExecutionOptions\.exclude_resources` is deprecated|^\s+self\.exclude_resources = exclude_resources$"
)
"""Lines of Ray Train 2.60 about how it calls Ray: in every run, and nothing that anybody could do about."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A run was asked to stop, and has saved where it stood.

    Args:
        run_dir: the run's folder.
        number: the signal that asked, or that it was as good as.
        saved: whether there is a checkpoint; a run that is stopped before its first step has none.
    """

    def __init__(self, run_dir: Path, number: int, *, saved: bool = True) -> None:
        super().__init__(run_dir, number)
        self.run_dir, self.number, self.saved = run_dir, number, saved


# ---------------------------------------------------------------- command line


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something else that a job's command does when a flag asks for it."""

    flag: str
    help: str
    run: Callable[[Any, str], int]
    """Gets the config and the flag's value ("" where it takes none); gives the exit code."""
    metavar: str | None = None
    """Name of the flag's value; ``None`` for a flag without one."""
    needs_config: bool = True
    """Without, it is run as soon as the flag is met, like ``--help``, and gets ``None``."""


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """A flag that stands for settings which a command is mostly used with."""

    flag: str
    help: str
    metavar: str
    overrides: Callable[[Sequence[str]], Sequence[str]]
    """From the flag's values to what ``--set`` takes."""
    several: bool = False
    """Whether it takes more than one value."""
    must: str = ""
    """A setting that somebody must have given: what the preset of a command has there is only an example."""


class _RunNow(argparse.Action):
    """Calls ``const`` with the flag's value, and ends the process with the exit code that it returns."""

    def __call__(self, parser: object, namespace: object, value: Any, option_string: str | None = None) -> NoReturn:
        raise SystemExit(self.const(None, value))


def parse(
    kind: type[J],
    description: str,
    argv: Sequence[str] | None = None,
    *,
    dry_run: Callable[[J], None] | None = None,
    actions: Sequence[Action] = (),
    shortcuts: Sequence[Shortcut] = (),
    preset: str | None = None,
) -> J:
    """Read a job's config from the command line.

    Args:
        kind: config class of the job.
        description: first paragraph of ``--help``.
        argv: arguments; ``None`` means those of the process.
        dry_run: shows what the job would do, for ``--dry-run``; without it the config is only checked.
        actions: what the command does instead of the job for further flags.
        shortcuts: further flags that change settings; ``--set`` has the last word.
        preset: what is taken without ``--config``, which then may be left out.

    Raises:
        ConfigError: the config does not exist or is wrong.
        SystemExit: after ``--help``, ``--print-config``, ``--dry-run``, an action, and for unknown arguments.
    """
    job = str(kind.model_fields["job"].default)
    parser = Parser(f"ray_jobs.{job}", description)
    parser.add_config(job=job, required=preset is None)
    parser.add_argument("--print-config", action="store_true", help="print the complete config as YAML and stop")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything that can be checked, show it, and stop"
    )
    for shortcut in shortcuts:
        parser.add_argument(
            shortcut.flag, nargs="+" if shortcut.several else 1, metavar=shortcut.metavar, help=shortcut.help
        )
    for action in actions:
        if not action.needs_config:
            parser.add_argument(action.flag, metavar=action.metavar, help=action.help, action=_RunNow, const=action.run)
        elif action.metavar is None:
            parser.add_argument(action.flag, action="store_const", const="", help=action.help)
        else:
            parser.add_argument(action.flag, metavar=action.metavar, help=action.help)
    arguments = parser.parse_args(argv)
    overrides: list[str] = []
    for shortcut in shortcuts:
        given = getattr(arguments, shortcut.flag.removeprefix("--").replace("-", "_"))
        overrides += shortcut.overrides(given) if given else ()
    overrides += overrides_of(arguments)
    # argparse has asked for one of the two
    config = load_config(kind, arguments.config or str(preset), overrides)
    if arguments.print_config:
        sys.stdout.write(dump_config(config))
        raise SystemExit(0)
    if arguments.config is None:
        _check_given(shortcuts, overrides)
    if arguments.dry_run:
        if dry_run is not None:
            dry_run(config)
        else:
            console().print(f"The config of {config.name!r} is valid.")
        raise SystemExit(0)
    for action in actions:
        if not action.needs_config:
            continue
        value = getattr(arguments, action.flag.removeprefix("--").replace("-", "_"))
        if value is not None:
            raise SystemExit(action.run(config, value))
    return config


def _check_given(shortcuts: Sequence[Shortcut], overrides: Sequence[str]) -> None:
    """Refuse to go on with examples where nobody said what the command is to work on."""
    settings = {override.partition("=")[0] for override in overrides}
    lacking = [f"{s.flag} {s.metavar}" for s in shortcuts if s.must and s.must not in settings]
    if lacking:
        raise ConfigError(
            f"nothing to work on was named: {' and '.join(lacking)} must be given",
            "add what is missing, or give --config FILE; --help shows everything",
        )


def run(main: Callable[[], Any]) -> NoReturn:
    """Call ``main`` as a command: set up logging, tell a failure plainly, and exit.

    Exit codes: 0 done, 2 a ``SetokError`` or a file that cannot be used (what and what to do is printed), 75 stopped by
    SIGTERM after saving, 130 interrupted.
    Other exceptions are bugs and keep their traceback.
    """
    setup_logging()
    try:
        _call(main)
    except SetokError as error:
        show_error(error)
        raise SystemExit(EXIT_ERROR) from None
    except OSError as error:
        if error.filename is None:
            raise
        # A folder that cannot be written, a disk that is full: nobody needs our traceback for that.
        show_error(
            SetokError(f"{error.filename}: {error.strerror}", "check the path, its permissions and the free space")
        )
        raise SystemExit(EXIT_ERROR) from None
    except Stopped as stopped:
        told = "is saved. The same command goes on from there" if stopped.saved else "had nothing to save yet"
        error_console().print(f"{stopped.run_dir} {told}.", style="yellow")
        raise SystemExit(EXIT_INTERRUPTED if stopped.number == signal.SIGINT else EXIT_STOPPED) from None
    except KeyboardInterrupt:
        error_console().print("Interrupted. The same command goes on from what is finished.", style="yellow")
        note_told()
        raise SystemExit(EXIT_INTERRUPTED) from None
    raise SystemExit(0)


def _call(main: Callable[[], Any]) -> None:
    """Call it, and let Ctrl-C be ``KeyboardInterrupt``, whatever libraries make of it on the way."""
    try:
        main()
    except (Stopped, SystemExit):
        raise
    except BaseException as error:
        if led_to(error):
            raise KeyboardInterrupt from None
        raise
    finally:
        # Ray ends at the exit, too; the last to be registered is called before, so that Ctrl-C there ends it without a traceback.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)


def show_error(error: SetokError) -> None:
    """Print an error's problem in red and its remedy after an arrow, on stderr."""
    error_console().print(Text(f"{type(error).__name__}: {error.problem}", style="bold red"))
    if error.remedy:
        error_console().print(Text(f"  → {error.remedy}"))


# ---------------------------------------------------------------- people and machines


@functools.cache
def console() -> Console:
    """Where people read: stdout, in colour on a terminal."""
    return Console(highlight=False, soft_wrap=True)


@functools.cache
def error_console() -> Console:
    """Where people read what went wrong: stderr."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def setup_logging() -> None:
    """Log to stderr at the level of ``SETOK_LOG`` (default INFO); libraries only warn.

    A terminal gets columns and colours; a file or a pipe one line for each message, however long, for what reads lines.
    """
    handler: logging.Handler
    if error_console().is_terminal:
        handler = RichHandler(console=error_console(), show_path=False, omit_repeated_times=False, log_time_format="%X")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-8s %(message)s", datefmt="[%X]"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = os.environ.get("SETOK_LOG", "INFO").upper()
    for name in ("setok", "ray_jobs"):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells every retry, twice


# ---------------------------------------------------------------- Ray


def joins_cluster() -> bool:
    """Whether there is a Ray that this process belongs to, instead of one of its own."""
    return "RAY_ADDRESS" in os.environ or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def shows_logs() -> bool:
    """Whether Ray shows here what its processes log: on a cluster, and where ``SETOK_RAY_LOGS`` is set."""
    return joins_cluster() or bool(os.environ.get("SETOK_RAY_LOGS"))


def start_ray(num_cpus: int | None = None) -> None:
    """Join the cluster this process belongs to, or start Ray on this machine; a second call does nothing.

    Inside ``ray job submit``, or where ``RAY_ADDRESS`` is set, the cluster is joined; else a Ray of our own is started,
    which ends with this process and touches no other Ray on the machine.

    Args:
        num_cpus: CPUs that a Ray of our own may hand out; ``None`` means all of the machine.

    Raises:
        ConfigError: nobody answers at the cluster's address, or the token is refused.
    """
    joins = joins_cluster()
    set_ray_environment(joins=joins)
    import ray
    import ray.data

    for name in ("ray.data", "ray.train", "ray.tune", "ray.serve"):  # after the imports, which set levels of their own
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    if joins:
        where = os.environ.get("RAY_ADDRESS", "this machine")
        reaching.knock(where, "check --address or RAY_ADDRESS (HEAD:6379), and that the head runs")
        remedy = (
            "check that this is the head's address (HEAD:6379), and its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)"
        )
        with reaching.explained(where, remedy), _start_explained():
            ray.init(logging_level=logging.WARNING, log_to_driver=shows_logs())
    else:
        with _out_of_reach(), _start_explained():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_object_store_bytes(),
                logging_level=logging.WARNING,
                log_to_driver=shows_logs(),
            )
    set_data_context()


def set_data_context() -> None:
    """How Ray Data behaves in datasets of this process; for one that Ray has started and that makes datasets itself, too."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A long evaluation or checkpoint is no reason to end a run, nor is a lost block to be passed over.
    context.execution_no_progress_timeout_s = -1
    context.max_errored_blocks = 0


@contextlib.contextmanager
def _start_explained() -> Iterator[None]:
    """Say in a line that Ray did not start in time, for which it has no exception of its own."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, TimeoutError) and "timed out during startup" not in str(error):
            raise
        raise TrainingError(
            "Ray did not start in time: this machine is busy, or short of memory or of room in /tmp and /dev/shm",
            "give the same command again when less is running here; what Ray itself says is in"
            " /tmp/ray/session_latest/logs",
        ) from error


@contextlib.contextmanager
def _out_of_reach() -> Iterator[None]:
    """Start Ray's processes in groups of their own.

    ``timeout``, systemd and batch systems send SIGTERM to all of this process's group, and a Ray that ends at once leaves no
    time to save. Ray's processes end anyway when this one does.
    """
    from ray._private import services

    start = services.ConsolePopen
    services.ConsolePopen = functools.partial(start, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = start


def set_ray_environment(*, joins: bool) -> None:
    """Settings Ray reads from the environment, unless the user has set them; must precede ``import ray``."""
    tokens = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    has_token = any(name in os.environ for name in tokens) or (Path.home() / ".ray" / "auth_token").is_file()
    defaults = {
        # Explicit, because the default depends on the version: without it a local Ray may write a token that later
        # makes `ray job submit` fail.
        "RAY_AUTH_MODE": "token" if joins and has_token else "disabled",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_DEDUP_LOGS": "1",
        "RAY_DEDUP_LOGS_SKIP_REGEX": RAYS_OWN_NOISE,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if not joins:
        # A small machine's default is one process for each CPU, and more of them end when they are idle for a second. A run
        # has a dozen that coordinate; those that decode should outlive a restart of the workers.
        defaults["RAY_num_workers_soft_limit"] = str((os.cpu_count() or 1) + 12)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _object_store_bytes() -> int:
    """A quarter of the free memory, at most 4 GiB, and no more than /dev/shm holds (a container's may be small)."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4 * GIBIBYTE
    limits = [free // 4, 4 * GIBIBYTE]
    shared = Path("/dev/shm")
    if shared.is_dir():
        stat = os.statvfs(shared)
        limits.append(int(0.9 * stat.f_bavail * stat.f_frsize))
    return max(128 * 2**20, min(limits))
