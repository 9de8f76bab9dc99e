"""`penguin-vl bench serve`: servers of the OpenAI API under load."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Annotated, Any

import typer
from rich.table import Table

from penguin_models.errors import EngineError
from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout


def serve(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="URLs of the APIs, which usually end in /v1.")],
    clients: Annotated[
        list[int] | None, typer.Option(help="Number of clients, can be repeated; default: 1, 4, 16.", min=1, max=512)
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests at each number of clients.", min=1)] = 32,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)] = 32,
    minutes: Annotated[
        float, typer.Option(help="How long memory is observed under load; 0 for not at all.", min=0)
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Measure requests per second and latencies of servers, and what they do at ten times the load they can answer.

    Every request shows an image. Exits with 1 if a request was lost: neither answered nor refused as busy (429) with
    Retry-After. Sends PENGUIN_VL_API_KEY as the key.
    """
    for module in ("openai", "psutil"):
        if importlib.util.find_spec(module) is None:
            raise EngineError(f"measuring servers needs {module}: pip install 'penguin-vl[remote]'")
    from penguin_engine.bench.serving import Load, measure
    from penguin_engine.scene.remote.opening import check_url

    for url in urls:
        check_url(url)
    load = Load(clients or Load.clients, requests, max_tokens)
    with stderr.status("connecting", spinner="line") as status:
        result = asyncio.run(measure(urls, load, minutes, status.update))
    if as_json:
        print_json(result)
    else:
        _print(result)
    if sum(row["lost"] for rows in ("levels", "overload", "memory") for row in result[rows]):
        raise typer.Exit(1)


def _print(result: dict[str, Any]) -> None:
    table = Table("server", "clients", "requests/s", "tokens/s", "first token", "total", "429", "lost", box=None)
    for row in [*result["levels"], *result["overload"]]:
        load = row.get("clients") or f"{row['arrivals_per_s']:.1f}/s"
        times = [_times(row, name) for name in ("first", "total")]
        rates = f"{row['requests_per_s']:.2f}", f"{row['tokens_per_s']:.0f}"
        table.add_row(row["server"], str(load), *rates, *times, str(row["refusals"]), str(row["lost"]))
    stdout.print(table)
    stdout.out("first token and total: median and 95th percentile in seconds; the last rows are the overload")
    for row in result["overload"]:
        stdout.out(
            "{server}: of {sent} requests {answered} were answered, {refused} refused with Retry-After, {lost} "
            "lost".format(**row)
        )
    for row in result["memory"]:
        samples = row["resident_mib"]
        found = "is not measured: it does not run on this machine, or belongs to another user"
        if samples:
            found = f"{min(samples):.0f} to {max(samples):.0f} MiB, grew by {row['growth_mib']:.1f} MiB after a quarter"
        stdout.out(f"{row['server']}: memory over {row['minutes']:g} min and {row['answered']} answers {found}")
    for row in [*result["levels"], *result["overload"], *result["memory"]]:
        for reason in row["lost_because"]:
            stdout.out(f"{row['server']} lost a request: {reason}")


def _times(row: dict[str, Any], name: str) -> str:
    median_s, p95_s = row[f"{name}_p50_s"], row[f"{name}_p95_s"]
    return "-" if median_s is None else f"{median_s:.2f}  {p95_s:.2f}"
