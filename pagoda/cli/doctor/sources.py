"""Checks that the hub and Ollama's registry, which models come from, can be reached. Nothing is downloaded."""

import ssl

import httpx

from pagoda.cli.doctor.finding import Finding, ok, warning
from pagoda.models.sources.settings import REGISTRY_VARIABLE, SourceSettings

_TIMEOUT_S = 5.0


def check_hub(settings: SourceSettings) -> Finding:
    if settings.is_offline:
        return ok("hub", "HF_HUB_OFFLINE is set: only models that are on this machine are used")
    return _check("hub", settings.hub_url, "HF_ENDPOINT")


def check_registry(settings: SourceSettings) -> Finding:
    if settings.is_offline:
        return ok("registry", "HF_HUB_OFFLINE is set: nothing is pulled")
    return _check("registry", settings.registry_url, REGISTRY_VARIABLE)


def _check(subject: str, url: str, variable: str) -> Finding:
    advice = f"models cannot be pulled from there; check the network, HTTPS_PROXY and {variable}."
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        return warning(subject, f"{variable} is malformed: {error}", advice)
    try:
        # Any answer shows that the server can be reached.
        httpx.head(url, timeout=_TIMEOUT_S)
    except (httpx.HTTPError, ssl.SSLError, OSError, ValueError) as error:
        return warning(subject, f"{host} cannot be reached: {str(error) or type(error).__name__}", advice)
    return ok(subject, f"{host} can be reached")
