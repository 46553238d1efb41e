"""Run one of the benchmarks."""

import typer

from bench.first_answers import first_answers
from bench.footprint import footprint
from bench.gateway import gateway
from bench.masks import masks
from bench.memory import memory
from bench.peers.command import peers
from bench.random_models.command import write_model
from bench.routing.command import routing
from bench.routing.decision_cost import routing_cost
from bench.routing.real import routing_real
from bench.sampling import sampling
from bench.scheduler import scheduler
from bench.short_requests import short_requests
from bench.start import start
from bench.tier_shares import shares
from bench.whole_server import server

app = typer.Typer(no_args_is_help=True, help=__doc__, add_completion=False)
app.command()(server)
app.command()(gateway)
app.command()(scheduler)
app.command()(short_requests)
app.command()(shares)
app.command()(first_answers)
app.command()(start)
app.command()(memory)
app.command()(footprint)
app.command()(sampling)
app.command()(masks)
app.command()(peers)
app.command()(routing)
app.command()(routing_cost)
app.command()(routing_real)
app.command()(write_model)

if __name__ == "__main__":
    app()
