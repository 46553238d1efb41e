"""Options of `pagoda doctor`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from pagoda.cli.failure import failing_in_sentences
from pagoda.cli.options import AsJSON, Home, api_key, resolve_home


def register(app: typer.Typer) -> None:
    app.command(help="Check what this machine can run and whether Pagoda is set up correctly.")(doctor)


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Read all model files and verify their checksums.")] = False,
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        from pagoda.cli.doctor.examination import examine, print_report
        from pagoda.cli.doctor.finding import Level

        findings = examine(resolve_home(home), deep=deep, api_key=api_key())
        if as_json:
            print(json.dumps({"findings": [asdict(finding) for finding in findings]}))
        else:
            print_report(findings)
    raise typer.Exit(int(any(finding.level is Level.PROBLEM for finding in findings)))
