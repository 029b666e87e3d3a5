"""Models of one scale on one validation set: every lane in one compiled program, spread over the devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling_jax.data import Dataset
from scaling_jax.models import metrics
from scaling_jax.models.family import Model
from scaling_jax.study import Study
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.program import make_mesh

LOGITS_BYTES = 64 * 2**20  # float32 logits of an ensemble held at once
P = jax.sharding.PartitionSpec


class Scorer:
    """Metrics of trained models of one scale on the fixed validation set of a dataset.

    Args:
      model: the scale.
      dataset: in the tokens (or shapes) of the model.
      study: its evaluation settings are read.
    """

    def __init__(self, model: Model, dataset: Dataset, study: Study):
        self.model, self.dataset, self.feed = model, dataset, ResidentFeed(dataset)
        inputs = self.feed.validation_inputs(study.evaluation.examples, study.evaluation.batch_size)
        arrays = {"x": np.asarray(dataset.validation)}
        if dataset.validation_labels is not None:
            arrays["label"] = np.asarray(dataset.validation_labels)
        self.mesh = make_mesh(jax.local_devices(), (len(jax.local_devices()), 1, 1))
        everywhere = jax.NamedSharding(self.mesh, P())
        self.inputs_NxB, self.arrays = jax.device_put((inputs, arrays), everywhere)

    def each(
        self, params: Sequence[Any], treat: Callable[[Any, Model], Any] = lambda params, model: params
    ) -> list[dict[str, float]]:
        """Metrics of every model.

        Args:
          params: one pytree per model.
          treat: (params, model) -> params, before they are scored; traced.
        """
        devices = self.mesh.size
        padded = [*params, *[params[-1]] * (-len(params) % devices)]
        stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *padded)
        stacked = jax.device_put(stacked, jax.NamedSharding(self.mesh, P("run")))
        treated = jax.jit(jax.vmap(lambda one: treat(one, self.model)))(stacked)
        sums = jax.device_get(self._each(treated, self.inputs_NxB, self.arrays))
        return [self._metrics(jax.tree.map(lambda x, i=i: x[i], sums)) for i in range(len(params))]

    def ensemble(self, params: Sequence[Any]) -> dict[str, float]:
        """Metrics of the average of the models' predicted probabilities."""
        stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *params)
        stacked = jax.device_put(stacked, jax.NamedSharding(self.mesh, P()))
        sums = jax.device_get(self._ensemble(stacked, self.inputs_NxB, self.arrays))
        return self._metrics(sums, metrics.values)

    def _metrics(self, sums: Any, of_kind: Any = None) -> dict[str, float]:
        kind = self.dataset.spec.kind
        found = dict(self.model.metrics(sums)) if of_kind is None else of_kind(kind, sums)
        if kind == "tokens":
            found["bits_per_byte"] = found["loss"] / math.log(2.0) / self.dataset.bytes_per_token
            if (unigram := self.dataset.info.get("unigram_nats")) is not None:
                found["unigram_normalized"] = found["loss"] - unigram
        return found

    @functools.cached_property
    def _each(self) -> Any:
        """(stacked params, inputs, arrays) -> sums, stacked by model."""

        def one(params: Any, inputs_NxB: Any, arrays: Any) -> Any:
            return _summed(lambda i: self.model.evaluate(params, self.feed.make_batch(arrays, i)), inputs_NxB)

        def local(stacked: Any, inputs_NxB: Any, arrays: Any) -> Any:
            return jax.lax.map(lambda params: one(params, inputs_NxB, arrays), stacked)

        spread = jax.shard_map(
            local, mesh=self.mesh, in_specs=(P("run"), P(), P()), out_specs=P("run"), check_vma=False
        )
        return jax.jit(spread)

    @functools.cached_property
    def _ensemble(self) -> Any:
        """(stacked params, inputs, arrays) -> sums of the averaged prediction."""
        spec, rows = self.dataset.spec, self.inputs_NxB.shape[1]
        most = max(1, LOGITS_BYTES // (4 * spec.context * spec.vocab_size))
        part = next(k for k in range(min(rows, most), 0, -1) if rows % k == 0)

        def sums_of(stacked: Any, inputs_B: Any, arrays: Any) -> Any:
            batch = self.feed.make_batch(arrays, inputs_B)
            if spec.kind == "tokens":
                inputs, labels_R = batch[:, :-1], batch[:, 1:].reshape(-1)
            else:
                inputs, labels_R = batch["image"], batch["label"]
            count = jax.tree.leaves(stacked)[0].shape[0]

            def add(total_RxK: Any, params: Any) -> tuple[Any, None]:
                assert self.model.logits is not None
                log_p_RxK = jax.nn.log_softmax(self.model.logits(params, inputs).reshape(len(labels_R), -1))
                return jnp.logaddexp(total_RxK, log_p_RxK), None

            empty_RxK = jnp.full((len(labels_R), spec.vocab_size), -jnp.inf)
            mean_RxK = jax.lax.scan(add, empty_RxK, stacked)[0] - jnp.log(count)
            nats_R = -jnp.take_along_axis(mean_RxK, labels_R[:, None].astype(jnp.int32), axis=1)[:, 0]
            found = {"loss_sum": jnp.sum(nats_R), "count": jnp.int32(len(labels_R))}
            return found | metrics.sums_of(spec.kind, mean_RxK, labels_R)

        def whole(stacked: Any, inputs_NxB: Any, arrays: Any) -> Any:
            return _summed(lambda i: sums_of(stacked, i, arrays), inputs_NxB.reshape(-1, part))

        return jax.jit(whole)


def _summed(sums_of: Callable[[Any], Any], inputs_NxB: Any) -> Any:
    """The sums over all batches."""
    shapes = jax.eval_shape(sums_of, inputs_NxB[0])
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    body = lambda i, total: jax.tree.map(jnp.add, total, sums_of(inputs_NxB[i]))  # noqa: E731
    return jax.lax.fori_loop(0, inputs_NxB.shape[0], body, zero)
