"""Links from assets to the files that declare them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping

import dagster as dg

CODE_URL = "SYNC_CODE_URL"


def linked(modules: Mapping[str, str], code_url: str) -> Callable[[dg.AssetSpec], dg.AssetSpec]:
    """Gives an entity's asset a link to the entity's file; `modules` names these by entity.

    Below `code_url`, the repository's address on the web; where there is none, to the local file in an editor.
    """

    def link(spec: dg.AssetSpec) -> dg.AssetSpec:
        module = modules[spec.tags["entity"]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # links are shown, or they are not: no more hangs on it
            shown = dg.CodeReferencesMetadataValue(code_references=[_reference(module, code_url)])
        return spec.merge_attributes(metadata={"dagster/code_references": shown})

    return link


def _reference(module: str, code_url: str) -> dg.LocalFileCodeReference | dg.UrlCodeReference:
    path = f"{module.replace('.', '/')}.py"
    if code_url:
        return dg.UrlCodeReference(url=f"{code_url.rstrip('/')}/{path}", label=path)
    return dg.LocalFileCodeReference(file_path=str(sys.modules[module].__file__), label=path)
