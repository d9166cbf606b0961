"""A trained model behind HTTP, with the API that OpenAI's clients speak, and a page to try it.

    python -m ray_jobs.serve --config serve --set checkpoint=runs/demo/instruct
    python -m ray_jobs.serve --config serve --set checkpoint=runs/demo/instruct replicas.min=0 replicas.max=0   # without Ray
    python -m ray_jobs.serve --new-key ann                                              # a key, for clients on other machines

It serves until SIGTERM or Ctrl-C, and then brings the replies under way to their ends.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from ray_jobs import launch
from setok.config import ServeConfig, load_config
from setok.errors import ConfigError, SetokError
from setok.serving.keys import ENVIRONMENT, ApiKeys, new_key

APPLICATION = "setok"


def run(config: ServeConfig) -> None:
    """Serve until told to stop (SIGTERM, Ctrl-C); replies under way are brought to their ends.

    Raises:
        CheckpointError, ConfigError: there is no such model, the cluster is too small, or others would be let in without keys.
    """
    keys = access_of(config)
    check_model(config.checkpoint, here=config.replicas.max == 0 or not launch.joins_cluster())
    if config.replicas.max == 0:
        _run_here(config, keys)
    else:
        _run_on_ray(config, keys)


def access_of(config: ServeConfig) -> ApiKeys:
    """The keys that are let in.

    Raises:
        ConfigError: there are none, and other machines can reach the server.
    """
    keys = ApiKeys.load(config.access)
    if not len(keys) and not config.server.is_local and not config.access.allow_anonymous:
        raise ConfigError(
            f"server.host={config.server.host} lets other machines in, and there is no key",
            f"set access.keys_file or ${ENVIRONMENT} (python -m ray_jobs.serve --new-key NAME makes one), or"
            " --set access.allow_anonymous=true",
        )
    return keys


def check_model(checkpoint: str, *, here: bool) -> None:
    """Refuse a model that is not there or not whole, before anything is started or stopped for it.

    Args:
        here: it is loaded on this machine; else what this one does not see, or would have to download, is left to the replicas.

    Raises:
        CheckpointError: there is no such model.
    """
    from ray_jobs.evaluation.trained import trained_of

    if here or ("://" not in checkpoint and Path(checkpoint).absolute().parent.is_dir()):
        trained_of(checkpoint)


def _run_here(config: ServeConfig, keys: ApiKeys) -> None:
    """Without Ray: the web server in this process, the model in another.

    Raises:
        SetokError: the port is taken, or the model's process has ended.
    """
    import uvicorn

    from ray_jobs.serving.app import create_app
    from ray_jobs.serving.listening import Announced, bound
    from ray_jobs.serving.process import ModelProcess
    from setok.data.images import configure_opencv

    configure_opencv(num_threads=1)
    socket = bound(config.server)
    port = socket.getsockname()[1]
    model = ModelProcess(config)
    try:
        server = Announced(
            uvicorn.Config(
                create_app(model, config, keys),
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=int(config.server.drain_s),
            ),
            announce=lambda: _say_where(config, port),
        )
        model.on_lost = lambda: setattr(server, "should_exit", True)
        server.should_exit = model.exitcode is not None
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn takes them, and raises them again when it has ended
            signal.signal(number, lambda *_: None)
        server.run(sockets=[socket])
        if model.exitcode is not None:
            raise SetokError(
                f"the model's process ended with exit code {model.exitcode}",
                "start the server again; -9 is what the system does where memory runs out: batching.max_places bounds it",
            )
    finally:
        model.stop(timeout_s=config.server.drain_s)


def _run_on_ray(config: ServeConfig, keys: ApiKeys) -> None:
    import ray
    from ray import serve

    from ray_jobs.serving.deployments import application
    from ray_jobs.serving.draining import drain
    from ray_jobs.serving.listening import check_free

    if not launch.joins_cluster():  # on a cluster it is the head that listens, where Serve may listen already
        check_free(config.server)
    launch.start_ray()
    _check_resources(config, ray.cluster_resources())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve.start(proxy_location="HeadOnly", http_options={"host": config.server.host, "port": config.server.port})
    serve.run(application(config, keys), name=APPLICATION, route_prefix="/")
    _say_where(config, config.server.port)
    stop.wait()
    launch.console().print(f"stopping: replies under way have {config.server.drain_s:g} s")
    drain(serve.get_app_handle(APPLICATION), timeout_s=config.server.drain_s)
    # Without serve.delete before it, which would take the address away for a second in which whoever comes is told 404. This ends
    # what listens at once; a connection that is refused is tried again.
    serve.shutdown()


def _check_resources(config: ServeConfig, has: dict[str, float]) -> None:
    """Refuse what the cluster could never run, instead of waiting for it; an autoscaling cluster counts as it is now."""
    least = max(1, config.replicas.min)
    cpus = least * config.replicas.cpus + config.ingress.replicas * config.ingress.cpus
    if has.get("CPU", 0) < cpus:
        raise ConfigError(
            f"{least} replica(s) and {config.ingress.replicas} ingress need {cpus:g} CPUs, and the cluster has"
            f" {has.get('CPU', 0):g}",
            "lower replicas.cpus and ingress.cpus, or --set replicas.min=0 replicas.max=0 to serve without Ray",
        )
    if has.get("GPU", 0) < least * config.replicas.gpus:
        raise ConfigError(
            f"{least} replica(s) need {least * config.replicas.gpus:g} GPUs, and the cluster has {has.get('GPU', 0):g}",
            "--set replicas.gpus=0, or fewer replicas",
        )


def _say_where(config: ServeConfig, port: int) -> None:
    launch.console().print(f"{config.served_name} answers at {_url(config, port)}", style="bold green")


def _url(config: ServeConfig, port: int) -> str:
    host = "127.0.0.1" if config.server.host in ("0.0.0.0", "::") else config.server.host
    return f"http://{host}:{port}"


def build(arguments: dict[str, Any]) -> Any:
    """The application for ``serve deploy`` and RayService.

    Args:
        arguments: ``config`` (a preset or a file) and ``set`` (a mapping of dotted keys to values), as on the command line.

    Raises:
        CheckpointError, ConfigError: there is no such model, as far as this machine sees, or the settings are wrong; what is
            deployed already then stays as it is.
    """
    from ray_jobs.serving.deployments import application

    changes = arguments.get("set", {})
    config = load_config(
        ServeConfig, arguments.get("config", "serve"), [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    )
    check_model(config.checkpoint, here=False)
    return application(config, ApiKeys.load(config.access))


def describe(config: ServeConfig) -> None:
    """What would be served, to whom, and whether this machine holds it, for ``--dry-run``.

    Raises:
        CheckpointError, ConfigError: there is no such model, or others would be let in without keys.
    """
    from ray_jobs.evaluation.trained import trained_of
    from ray_jobs.planning.serving import show_here

    keys, trained, replicas = access_of(config), trained_of(config.checkpoint), config.replicas
    copies = f"{replicas.min} to {replicas.max} replica(s)" if replicas.max else "one model without Ray"
    launch.console().print(
        f"{config.served_name}: {trained.path}, by {copies}, at {_url(config, config.server.port)} for {len(keys) or 'no'} key(s)"
    )
    show_here(config)


def _print_key(_: Any, name: str) -> int:
    key, line = new_key(name)
    sys.stdout.write(f"The key, which is shown only now:\n  {key}\nIts line for access.keys_file:\n  {line}\n")
    return 0


def main() -> None:
    """The command ``python -m ray_jobs.serve``."""
    new = launch.Action(
        flag="--new-key",
        metavar="NAME",
        help="make an API key, print it and its line, and stop",
        run=_print_key,
        needs_config=False,
    )
    run(launch.parse(ServeConfig, __doc__ or "", dry_run=describe, actions=[new]))


if __name__ == "__main__":
    launch.run(main)
