"""What a request samples with: what its client asked, completed by pagoda/models/sampling_defaults.py, as SamplingParams.

Both dialects end here; each says what was asked, in Ollama's names, and which of its own values come last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.errors import InvalidRequestError
from gateway.http.fields import nucleus, seed_bits
from pagoda.models.sampling_defaults import APIValues, ModelDefaults, Parameter, Source
from pagoda.wire.sampling import SamplingParams

RANDOM_SEED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingChoice:
    params: SamplingParams
    """Without a seed; that is `seed`."""
    seed: int | None
    """None draws one at random."""
    stops: tuple[str, ...]
    max_total_tokens: int | None
    """The model's or the client's own limit on prompt and output together."""
    parameters: Mapping[str, Parameter]
    """Each value with its source, for the log."""


def choose_sampling(
    asked: Mapping[str, Any], defaults: ModelDefaults, api: APIValues, request_only: SamplingParams
) -> SamplingChoice:
    """Complete what was asked. `request_only` has the fields that no source but the request names.

    Raises InvalidRequestError where the values do not go together.
    """
    parameters = defaults.choose(asked, api)
    values = {name: each.value for name, each in parameters.items()}
    window, seed = values["repeat_last_n"], values.get("seed")
    params = replace(
        request_only,
        **nucleus(values["temperature"], values["top_p"]),
        top_k=max(0, values["top_k"]),
        min_p=values["min_p"],
        presence_penalty=values["presence_penalty"],
        frequency_penalty=values["frequency_penalty"],
        # A window of 0 switches the penalty off; -1 is the whole context, which SamplingParams calls 0.
        repetition_penalty=1.0 if window == 0 else values["repeat_penalty"],
        repetition_window=max(0, window),
        max_tokens=_max_tokens(parameters.get("num_predict"), request_only.min_tokens),
    )
    if (problem := params.problem()) is not None:
        raise InvalidRequestError(problem, param=problem.partition(" ")[0])
    return SamplingChoice(
        params=params,
        seed=None if seed in (None, RANDOM_SEED) else seed_bits(seed),
        stops=tuple(values.get("stop", ())),
        max_total_tokens=values.get("num_ctx"),
        parameters=parameters,
    )


def _max_tokens(limit: Parameter | None, min_tokens: int) -> int | None:
    if limit is None or limit.value < 0:
        return None
    # A default is not in the way of a request that wants more.
    return int(limit.value if limit.source is Source.REQUEST else max(limit.value, min_tokens))
