"""Packs on a Ray cluster: one task per pack, which starts the command as a subprocess (`pip install scaling_jax[ray]`).

Ray places tasks and repeats those whose node is lost; the workdir, which every node reaches, holds what is done. A
cluster is used when RAY_ADDRESS names one ("auto" is the one on this machine; `ray job submit` sets it). Otherwise one
is started on this machine's loopback interface and ends with this command.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from scaling_jax import signals
from scaling_jax.engines import base
from scaling_jax.engines.local import devices_wanted
from scaling_jax.engines.ray_task import STOP_SECONDS, train
from scaling_jax.errors import PREEMPTED, Preempted, UserError
from scaling_jax.planning import memory_bytes
from scaling_jax.training import hardware
from scaling_jax.training.scale import mesh_shape

# A pack is one process on one host, also where Ray itself was started by Slurm or on the hosts of a TPU slice.
ALONE = ("--coordinator_address=127.0.0.1:1", "--num_processes=1", "--process_id=0")
PROCESS_BYTES = 2**30  # of the interpreter, JAX and compilation, besides what the pack holds


def run(jobs: Sequence[base.Job], settings: base.Settings) -> int:
    """Trains every job to exit 0 and returns the exit code of the whole.

    Raises:
      UserError: Ray is not installed, an unknown option, or a pack that no node has devices for.
      Preempted: this driver was asked to stop; the packs under way were asked too, and have saved.
    """
    _packs_per_gpu(settings)
    handlers = {number: signal.getsignal(number) for number in signals.SIGNALS}
    ray = _connect()
    try:
        if settings.dry_run:
            for job in jobs:
                base.say(f"{job.pack.name}: {_resources(ray, job, settings)} scaling-jax {shlex.join(job.command)}")
            return 0
        for number in signals.SIGNALS:  # Ray has put its own in front, which end the process
            signal.signal(number, handlers[number])
        with settings.stop.deferred():
            return _run(ray, jobs, settings)
    finally:
        ray.shutdown()


def _connect() -> ModuleType:
    """Ray, connected."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address or address.startswith("127."):
        # By default Ray binds to the machine's address, and 127.0.0.1 does not stop it; with this it binds to loopback.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_DEDUP_LOGS"):  # reports nothing home; swallows no line of a pack
        os.environ.setdefault(name, "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("--engine=ray needs Ray: pip install 'scaling_jax[ray]'") from error
    if address:
        ray.init(address=address)
    else:
        ray.init(address="local", include_dashboard=False, object_store_memory=80 * 2**20)
    return ray


def _run(ray: ModuleType, jobs: Sequence[base.Job], settings: base.Settings) -> int:
    task = ray.remote(max_calls=1, max_retries=settings.max_retries, retry_exceptions=[Preempted])(train)
    waiting, running, codes = deque(jobs), {}, []
    while waiting or running:
        # Ray repeats a lost task after all that it was given, so what cannot start yet stays here: a long pack that was
        # preempted resumes at once. The one task too many is the demand that an autoscaler sees.
        while waiting and len(running) <= _slots(ray, waiting[0], settings):
            job = waiting.popleft()
            request = _resources(ray, job, settings)
            running[task.options(**request).remote(_command(job, request))] = job
        done, _ = ray.wait(list(running), timeout=1.0)
        for reference in done:
            codes.append(_code(ray, reference))
            how = "done" if codes[-1] == 0 else f"exit {codes[-1]}"
            base.say(f"[{len(codes)}/{len(jobs)}] {running.pop(reference).pack.name}: {how}")
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


def _packs_per_gpu(settings: base.Settings) -> int:
    """`--engine_option=packs_per_gpu=K`: small packs that share a GPU, under NVIDIA's MPS (launch/gpu_box.sh)."""
    count = 1
    for option in settings.options:
        name, _, value = option.lstrip("-").partition("=")
        if name != "packs_per_gpu" or not value.isdigit() or int(value) < 1:
            raise UserError(f"--engine=ray knows --engine_option=packs_per_gpu=K only, not {option!r}")
        count = int(value)
    return count


def _resources(ray: ModuleType, job: base.Job, settings: base.Settings) -> dict[str, Any]:
    """What a pack asks of a node, as Ray's task options."""
    pack, study = job.pack, settings.study
    kind, nodes = _nodes(ray)
    largest = max([1, *(int(node.get(kind, 0)) for node in nodes)])  # at least 1: nodes may be yet to come
    wanted = devices_wanted(pack, study, largest)
    if wanted > largest:
        raise UserError(
            f"pack {pack.name} wants {wanted} devices (execution.mesh) and no node of this Ray cluster has more than "
            f"{largest} {kind}; --engine=slurm and --engine=xpk train one pack over many hosts"
        )
    if kind == "GPU":
        shared = _packs_per_gpu(settings) if wanted == 1 else 1
        return {"num_gpus": wanted / shared, "num_cpus": 1}
    if kind == "TPU":  # a host is divided into 1, 2, 4 or 8 chips only
        return {"resources": {"TPU": 1 << (wanted - 1).bit_length()}, "num_cpus": 1}
    mesh = mesh_shape(pack, study, wanted)
    execution = hardware.resolve_pack(study, pack, settings.spec, mesh)
    memory = PROCESS_BYTES + wanted * memory_bytes(study, pack, settings.spec, mesh, execution)
    # Ray keeps the order only among tasks that ask for the same: so memory is asked for by those packs only that need
    # more than goes with their cores, and never more than a node has, since the estimate may be wrong.
    fitting = [(n["memory"], n["memory"] * wanted / n["CPU"]) for n in nodes if n.get("CPU", 0) >= wanted]
    most, share = max(fitting, default=(0, memory))
    return {"num_cpus": wanted} if memory <= share else {"num_cpus": wanted, "memory": int(min(memory, most))}


def _slots(ray: ModuleType, job: base.Job, settings: base.Settings) -> int:
    """Packs like this one that the cluster trains at once."""
    kind, nodes = _nodes(ray)
    request = _resources(ray, job, settings)
    each = {"CPU": request["num_cpus"], "GPU": request.get("num_gpus"), **request.get("resources", {})}[kind]
    return sum(int(node.get(kind, 0) // each) for node in nodes)


def _command(job: base.Job, request: Mapping[str, Any]) -> list[str]:
    """The job's command; on CPU nodes it makes as many devices as it was given cores."""
    command = [*job.command, *ALONE]
    on_cpu = set(request) <= {"num_cpus", "memory"}
    if on_cpu and not any(arg.startswith("--num_cpu_devices") for arg in command):
        command.append(f"--num_cpu_devices={request['num_cpus']}")
    return command
