"""`python -m pagoda.cli`, for an interpreter whose scripts are not on the PATH."""

from pagoda.cli.main import app

app()
