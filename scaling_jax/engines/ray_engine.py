"""Packs on a Ray cluster: one task per pack, which starts the command as a subprocess (`pip install scaling_jax[ray]`).

Ray places tasks and repeats those whose node is lost; the workdir, which every node reaches, holds what is done. A
cluster is used when RAY_ADDRESS names one ("auto" is the one on this machine; `ray job submit` sets it). Otherwise one
is started on this machine's loopback interface and ends with this command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from scaling_jax.engines import base
from scaling_jax.errors import PREEMPTED, Preempted

STOP_SECONDS = 90.0  # a pack that is told to stop has this long to save
PROCESS_BYTES = 2**30  # of the interpreter, JAX and compilation, besides what the pack holds


def run(jobs: Sequence[base.Job], settings: base.Settings) -> int:
    """Trains every job to exit 0 and returns the exit code of the whole.

    Raises:
      Preempted: this driver was told to stop; the packs under way were told too, and have saved.
      ModuleNotFoundError: ray is not installed.
    """
    ray = _connect()
    try:
        if settings.dry_run:
            for job in jobs:
                base.say(f"{job.pack.scale}: {_resources(ray, job, settings)} scaling-jax {' '.join(job.command)}")
            return 0
        with settings.stop.deferred():
            return _run(ray, jobs, settings)
    finally:
        ray.shutdown()


def train(command: Sequence[str]) -> int:
    """Runs on a worker: the command, until it ends by itself or the task is cancelled; returns its exit code.

    Raises:
      Preempted: the command was told to stop and has saved; Ray then starts the task again, here or elsewhere.
    """
    process = subprocess.Popen([sys.executable, "-m", "scaling_jax.engines.child", *command])
    try:
        code = process.wait()
    except BaseException:  # cancelled: a KeyboardInterrupt in the middle of the wait
        process.terminate()
        process.wait(STOP_SECONDS)
        raise
    if code in (PREEMPTED, -signal.SIGTERM):  # or told so before it could listen
        raise Preempted("saved")
    return code


def _connect() -> ModuleType:
    """Ray, connected."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address or address.startswith("127."):
        # By default Ray binds to the machine's address, and 127.0.0.1 does not stop it; with this it binds to loopback.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if address:
        ray.init(address=address)
    else:
        ray.init(address="local", include_dashboard=False, object_store_memory=80 * 2**20)
    return ray


def _run(ray: ModuleType, jobs: Sequence[base.Job], settings: base.Settings) -> int:
    task = ray.remote(train).options(max_calls=1, max_retries=settings.max_retries, retry_exceptions=[Preempted])
    waiting, running, codes = deque(jobs), {}, []
    while waiting or running:
        # Ray keeps the order only among tasks that ask for the same, so what cannot start yet mostly stays here; the
        # one task too many is what an autoscaler sees.
        while waiting and len(running) <= _slots(ray, waiting[0], settings):
            job = waiting.popleft()
            request = _resources(ray, job, settings)
            command = [*job.command, *_devices_flag(request, job.command)]
            running[task.options(**request).remote(command)] = job
        done, _ = ray.wait(list(running), timeout=1.0)
        for reference in done:
            codes.append(_code(ray, reference))
            how = "done" if codes[-1] == 0 else f"exit {codes[-1]}"
            base.say(f"[{len(codes)}/{len(jobs)}] {running.pop(reference).pack.scale}: {how}")
        if settings.stop():
            for reference in running:
                ray.cancel(reference)
            ray.wait(list(running), num_returns=max(1, len(running)), timeout=STOP_SECONDS)
            raise Preempted(f"{len(codes)} of {len(jobs)} packs are done, the others have saved")
    return base.exit_code(codes)


def _code(ray: ModuleType, reference: Any) -> int:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # out of retries
        base.say(" ".join(str(error).split())[:300])
        return PREEMPTED


def _nodes(ray: ModuleType) -> tuple[str, list[Mapping[str, float]]]:
    """("TPU", "GPU" or "CPU", resources of every living node): accelerators are used where there are any."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = next((kind for kind in ("TPU", "GPU") if any(node.get(kind) for node in nodes)), "CPU")
    return kind, nodes


def _resources(ray: ModuleType, job: base.Job, settings: base.Settings) -> dict[str, Any]:
    """What a pack asks of a node, as Ray's task options."""
    from scaling_jax.engines.local import devices_wanted
    from scaling_jax.plan import memory_bytes
    from scaling_jax.training import device

    kind, nodes = _nodes(ray)
    largest = int(max(node.get(kind, 0) for node in nodes))
    wanted = devices_wanted(job.pack, settings.study, largest)
    if kind == "GPU":
        return {"num_gpus": wanted, "num_cpus": 1}
    if kind == "TPU":  # a host is divided into 1, 2, 4 or 8 chips only
        return {"resources": {"TPU": 1 << (wanted - 1).bit_length()}, "num_cpus": 1}
    pack, study = job.pack, settings.study
    head_dim = getattr(study.family, "head_dim", None)
    execution = device.resolve(study.execution, pack.width, pack.depth, settings.spec, head_dim)
    lanes = -(-len(pack.lanes) // wanted)
    memory = PROCESS_BYTES + wanted * memory_bytes(study, pack, settings.spec, lanes, execution)
    most = max(node.get("memory", 0) for node in nodes)  # an estimate: more than a node has would wait for ever
    return {"num_cpus": wanted, "memory": int(min(memory, most))}


def _slots(ray: ModuleType, job: base.Job, settings: base.Settings) -> int:
    """Packs like this one that the cluster runs at once."""
    kind, nodes = _nodes(ray)
    request = _resources(ray, job, settings)
    each = {"CPU": request["num_cpus"], "GPU": request.get("num_gpus"), **request.get("resources", {})}[kind]
    return max(1, sum(int(node.get(kind, 0) // each) for node in nodes))


def _devices_flag(request: Mapping[str, Any], command: Sequence[str]) -> list[str]:
    """On CPU nodes a pack makes as many devices as it was given cores."""
    on_cpu = "memory" in request and not any(arg.startswith("--num_cpu_devices") for arg in command)
    return [f"--num_cpu_devices={request['num_cpus']}"] if on_cpu else []
