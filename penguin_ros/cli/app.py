"""The commands of `penguin-vl`; each is a module of this package."""

from __future__ import annotations

import typer

from penguin_ros.cli import (
    ask,
    bench,
    bench_node,
    bench_serve,
    build,
    console,
    curate,
    demo,
    doctor,
    embed,
    episodes,
    evaluate,
    evaluate_recall,
    evaluate_watch,
    export,
    parity,
    prepare,
    quantize,
    recaption,
    ros,
    serve,
    soak,
    tabletop,
    train,
)

app = typer.Typer(
    name="penguin-vl",
    help="A vision-language model for ROS 2 robots.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("ask")(ask.ask)
app.command("node")(ros.node)
app.command("replay")(ros.replay)
app.command("sim-camera")(ros.sim_camera)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("console")(console.console)
app.command("doctor")(doctor.doctor)
app.command("embed")(embed.embed)
app.command("export")(export.export)
app.command("quantize")(quantize.quantize)
app.command("build")(build.build)
app.command("parity")(parity.parity)
app.command("train")(train.train)
app.add_typer(prepare.app, name="prepare")
app.command("curate")(curate.curate)
app.add_typer(tabletop.app, name="tabletop")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(episodes.app, name="episodes")
app.add_typer(bench.app, name="bench")
prepare.app.command("recaption")(recaption.recaption)
evaluate.app.command("recall")(evaluate_recall.recall)
evaluate.app.command("watch")(evaluate_watch.watch)
bench.app.command("soak")(soak.soak)
bench.app.command("node")(bench_node.node)
bench.app.command("serve")(bench_serve.serve)
