"""The command line: compile, inspect, verify, bench, run.

Exit status: 0 done; 1 a gate or a verification failed; 2 bad usage or bad input, with one line on stderr that names the
cause. Results go to stdout, progress to stderr and only when that is a terminal.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from bnncc import __version__
from bnncc.config import MOST_THREADS, Config, load_config
from bnncc.errors import BadInput, BnnccError, GateFailed, InternalError

# What a table is laid out for when stdout is no terminal.
_PLAIN_WIDTH = 100
_INTERRUPTED = 130

Printer = Callable[[Console], None]


def emit(text: str) -> None:
    """Write to stdout; a reader that went away (`| head`) does not change the exit status."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_tables(draw: Printer) -> None:
    """Draw on stdout: in colours if it is a terminal, else plainly, as wide as COLUMNS in the environment, or 100."""
    terminal = sys.stdout.isatty()
    buffer = io.StringIO()
    width = None if terminal or os.environ.get("COLUMNS", "").isdecimal() else _PLAIN_WIDTH
    draw(Console(file=buffer, force_terminal=terminal, width=width, color_system="auto" if terminal else None))
    # rich fills rows up to the table's width
    emit("".join(line.rstrip() + "\n" for line in buffer.getvalue().splitlines()))


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None] | None]:
    """Show what is going on in one line of stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Console(stderr=True).status("") as status:
        yield lambda text: status.update(Text(text))


class _Command(click.Command):
    """Names the file and the place of an error that nobody foresaw."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BnnccError, click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        # The one place that takes any exception. Models come from anywhere and libraries raise what they like: a script
        # that compiles a thousand of them needs to know which one failed, in one line and with the documented status.
        # Nothing is swallowed: the status is not 0, nothing was written, and -v shows the traceback.
        except Exception as error:
            files = (str(ctx.params[name]) for name in ("model", "reference", "compiled") if name in ctx.params)
            cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise InternalError(
                f"{', '.join(files)}: internal error in {_place(error)}: {cause} (-v for the traceback)"
            ) from error


def _place(error: BaseException) -> str:
    """Return which function of bnncc was running, and before it the pass that called it, if one did."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = [f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}" for frame in frames]
    places = [place for place in places if place.startswith("bnncc.")]
    passes = [place for place in places if place.startswith("bnncc.passes.") and place.endswith(".apply")]
    return ", ".join(dict.fromkeys([*passes, *places[-1:]]))


class _Group(click.Group):
    """Turns every error that a user can cause into one line and an exit status, wherever the group is called from."""

    command_class = _Command

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            status = super().main(args=arguments, prog_name=prog_name, **extra)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx is not None else "bnncc"
            click.echo(f"{command}: {_flat(error.format_message())} (see {command} --help)", err=True)
            status = 2
        except click.ClickException as error:
            click.echo(f"bnncc: {_flat(error.format_message())}", err=True)
            status = 2
        except click.Abort:
            click.echo("bnncc: interrupted", err=True)
            status = _INTERRUPTED
        except BnnccError as error:
            if _verbose(arguments):
                traceback.print_exc()
            click.echo(f"bnncc: {_flat(str(error))}", err=True)
            status = error.exit_status
        sys.exit(status if isinstance(status, int) else 0)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _verbose(arguments: Sequence[str]) -> bool:
    return "-v" in arguments or "--verbose" in arguments


class _InputShape(click.ParamType):
    """NAME=1,3,224,224: a name, and a size or -1 per axis."""

    name = "NAME=SIZES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[int]]:
        if isinstance(value, tuple):
            return value
        name, separator, sizes = str(value).rpartition("=")
        try:
            shape = [int(size) for size in sizes.split(",")]
        except ValueError:
            shape = []
        if not separator or not name or not shape:
            self.fail(f"{value!r} is not of the form image=1,3,224,224", param, ctx)
        return name, shape


class _Tropnnc(click.ParamType):
    """NAME=VALUE, or PATTERN:NAME=VALUE for some layers."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str, Any]:
        if isinstance(value, tuple):
            return value
        setting, separator, number = str(value).rpartition("=")
        pattern, _, name = setting.rpartition(":")
        if not separator or not name:
            self.fail(f"{value!r} is not of the form keep=0.5 or 'conv1*:keep=0.5'", param, ctx)
        if "," in name:
            self.fail(f"{value!r}: give --tropnnc once for each setting", param, ctx)
        name = name.replace("-", "_")
        from bnncc.passes.tropnnc.settings import WORDS  # heavy to import

        if name in WORDS:
            return pattern, name, number
        try:
            return pattern, name, int(number) if name == "seed" else float(number)
        except ValueError:
            hint = "; a half is 0.5" if "%" in number else ""
            self.fail(f"{value!r}: {number!r} is no number{hint}", param, ctx)


def _tropnnc_settings(given: Sequence[tuple[str, str, Any]], config: Config) -> dict[str, Any]:
    """Lay the settings of the command line over the config file's.

    An amount takes the place of another, and of what goes with it; patterns come before the file's.
    """
    if not given:
        return config.tropnnc
    from bnncc.passes.tropnnc.settings import AMOUNTS

    own: dict[str, Any] = {}
    layers: dict[str, dict[str, Any]] = {}
    for pattern, name, value in given:
        to = layers.setdefault(pattern, {}) if pattern else own
        if name in to:
            raise BadInput(f"--tropnnc: {name.replace('_', '-')} is given twice")
        to[name] = value
    settings = {name.replace("-", "_"): value for name, value in config.tropnnc.items()}
    if any(name in AMOUNTS for name in own):
        settings = {name: value for name, value in settings.items() if name not in (*AMOUNTS, "threshold")}
    layers |= {pattern: options for pattern, options in settings.get("layers", {}).items() if pattern not in layers}
    return settings | own | ({"layers": layers} if layers else {})


def _options(*options: Callable) -> Callable:
    """Apply several options to a command, in the order in which its help shows them."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


# Existence is checked where a file is read: there is one message for each cause there.
_FILE = click.Path(path_type=Path)

_model = click.argument("model", type=_FILE, metavar="MODEL.onnx")
_data = click.option("--data", type=_FILE, metavar="X.npz", help='Inputs by name, and "labels" if any.')
_threads = click.option(
    "--threads",
    type=click.IntRange(min=0, max=MOST_THREADS),
    default=None,
    metavar="N",
    help="Of onnxruntime; 0: all. [default: 1]",
)
_seed = click.option(
    "--seed", type=click.IntRange(min=0), default=None, metavar="N", help="Of the random inputs. [default: 0]"
)
_shapes = click.option(
    "--input-shape",
    "input_shapes",
    type=_InputShape(),
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="Fix the dynamic dimensions of an input; -1 leaves one.",
)
_samples = click.option(
    "--verify-samples", type=click.IntRange(min=1), default=None, metavar="N", help="Random samples. [default: 32]"
)
_json = click.option("--json", "json_file", type=_FILE, metavar="F.json", help="Write the figures to a file.")
_verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, help="Show a traceback with an error."
)
_output_gates = _options(
    click.option("--min-argmax-agreement", type=float, metavar="SHARE", help="Gate: least share of the same class."),
    click.option("--max-abs-diff", type=float, metavar="D", help="Gate: outputs differ by at most this."),
    click.option(
        "--max-rel-diff",
        type=float,
        metavar="D",
        help="Gate: outputs differ by at most this share of their largest magnitude. [without gates: 1e-3; any where B "
        "has fewer channels]",
    ),
)
_tree = _options(
    click.option("--tree/--no-tree", default=None, help="Find trees over the filters of convolutions. [default: tree]"),
    click.option("--tree-shared-root/--no-tree-shared-root", default=None, help="The filter of zeros is the root."),
    click.option("--tree-complement/--no-tree-complement", default=None, help="Complements may stand for filters."),
    click.option("--tree-steiner/--no-tree-steiner", default=None, help="Virtual filters where they save."),
    click.option(
        "--tree-ripple", type=click.IntRange(min=0), metavar="BITS", help="Price of an edge, in bits. [default: 24]"
    ),
    click.option("--tree-max-depth", type=click.IntRange(min=1), metavar="N", help="Most edges below the root."),
)


_tropnnc = click.option(
    "--tropnnc",
    type=_Tropnnc(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Cluster hidden channels of float ReLU layers (lossy): keep=0.5, target-params=0.5, target-flops=0.5, v1=, "
    "v2= or v3=DISTANCE; 'PATTERN:keep=0.5' for layers of such names; mode=paper.",
)


_binarize = _options(
    click.option(
        "--binarize",
        type=click.Choice(["dab", "bihalf", "xnor"]),
        help="Give float layers weights of two values per filter, without training (lossy).",
    ),
    click.option(
        "--layers",
        "binarized_layers",
        multiple=True,
        metavar="PATTERN",
        help="Binarize the float layers of such names. [default: all but the first and the last]",
    ),
)
_calibrate = click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="Re-estimate statistics of the binarized network on the samples of --data.",
)


def _binarize_settings(
    method: str | None, layers: Sequence[str], calibrate: bool | None, config: Config
) -> dict[str, Any]:
    """Lay the settings of the command line over the config file's."""
    given = {"method": method, "layers": list(layers) or None, "calibrate": calibrate}
    settings = config.binarize | {name: value for name, value in given.items() if value is not None}
    if settings and "method" not in settings:
        raise BadInput("--layers and --calibrate go with --binarize")
    return settings


def _config(
    file: Path | None = None,
    input_shapes: Sequence[tuple[str, list[int]]] = (),
    tropnnc: Sequence[tuple[str, str, Any]] = (),
    binarize: str | None = None,
    binarized_layers: Sequence[str] = (),
    calibrate: bool | None = None,
    **options: Any,
) -> Config:
    """Lay the options that were given over the config file's, or over the defaults."""
    config = load_config(file) if file is not None else Config()
    given = {name: value for name, value in options.items() if value is not None}
    shapes = {**config.input_shapes, **dict(input_shapes)}
    return config.replace(
        input_shapes=shapes,
        tropnnc=_tropnnc_settings(tropnnc, config),
        binarize=_binarize_settings(binarize, binarized_layers, calibrate, config),
        **given,
    )


def _write_json(report: Any, path: Path | None, inputs: Sequence[Path | None]) -> None:
    from bnncc.model_io import write_text
    from bnncc.report import to_json

    if path is not None:
        write_text(to_json(report), path, [file for file in inputs if file is not None])


def _check_json(path: Path | None, inputs: Sequence[Path | None]) -> None:
    """Refuse an impossible report file before the work rather than after."""
    from bnncc.model_io import check_output_path

    if path is not None:
        check_output_path(path, [file for file in inputs if file is not None])


@click.group(
    cls=_Group,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="bnncc %(version)s")
@_verbose_option
def main() -> None:
    """Compile binary neural networks in ONNX for fast, exact inference on CPUs with onnxruntime."""
    import onnxruntime

    # Its warnings are on the inner life of graphs that users never see; errors come as exceptions.
    onnxruntime.set_default_logger_severity(4)


@main.command("compile")
@_model
@click.option("-o", "--output", type=_FILE, required=True, metavar="OUT.onnx", help="Where the compiled model goes.")
@click.option("--config", "config_file", type=_FILE, metavar="C.toml", help="Options in a file; those here go first.")
@click.option("--report", "report_file", type=_FILE, metavar="R.json", help="Write the whole report to a file.")
@_data
@click.option("--dump-passes", type=_FILE, metavar="DIR", help="Write the model after each pass.")
@_options(_output_gates)
@click.option("--min-speedup", type=float, metavar="RATIO", help="Gate: at least this many times as fast (measured).")
@click.option("--require-binary", type=click.Choice(["all"]), help="Gate: every layer that could be binary is.")
@click.option("--verify/--no-verify", default=None, help="Compare with the original before writing. [default: verify]")
@click.option(
    "--tune/--no-tune", default=None, help="Time the kernels of each layer, and name the fastest in the file."
)
@click.option("--tune-batch", type=click.IntRange(min=1), metavar="N", help="Samples of a call in that. [default: 1]")
@_options(_samples, _seed, _threads, _shapes, _tropnnc, _binarize, _calibrate, _tree)
@click.option("-q", "--quiet", is_flag=True, help="Print no tables.")
@_verbose_option
def compile_command(
    model: Path,
    output: Path,
    config_file: Path | None,
    report_file: Path | None,
    data: Path | None,
    dump_passes: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Compile the binary layers of MODEL.onnx, verify the result against it, and write it to OUT.onnx."""
    from bnncc.pipeline import compile as compile_model
    from bnncc.report import Report
    from bnncc.tables import print_report

    config = _config(config_file, **options)
    inputs = [model, data, config_file]
    _check_json(report_file, inputs)
    if report_file is not None and report_file.resolve() == output.resolve():
        raise BadInput(f"{report_file}: is the output as well as the report")

    def show(report: Report) -> None:
        _write_json(report, report_file, inputs)
        if not quiet:
            emit_tables(lambda console: print_report(report, console))

    try:
        with progress_line() as progress:
            result = compile_model(model, output, config, data=data, dump_passes=dump_passes, progress=progress)
    except GateFailed as error:
        if error.report is not None:
            show(error.report)
        raise
    show(result.report)
    if not quiet:
        emit(f"\nwritten to {output}\n")


@main.command("inspect")
@_model
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--config", "config_file", type=_FILE, metavar="C.toml", help="Options of the compilation to look into.")
@_options(_shapes, _tropnnc, _binarize, _tree)
@_verbose_option
def inspect_command(model: Path, as_json: bool, config_file: Path | None, **options: Any) -> None:
    """Say what is binary in MODEL.onnx, what could be and why not, or what is in a compiled model."""
    from bnncc.inspection import inspect
    from bnncc.tables import print_report

    with progress_line() as progress:
        report = inspect(model, _config(config_file, **options), progress)
    if as_json:
        emit(report.to_json())
    else:
        emit_tables(lambda console: print_report(report, console))


@main.command("verify")
@click.argument("reference", type=_FILE, metavar="A.onnx")
@click.argument("compiled", type=_FILE, metavar="B.onnx")
@_data
@_options(_output_gates)
@click.option(
    "--through",
    type=click.Choice(["library", "functions"]),
    default="library",
    help="Run compiled models on the library or on their function bodies. [default: library]",
)
@_options(_samples, _seed, _threads, _shapes, _json)
@_verbose_option
def verify_command(
    reference: Path, compiled: Path, data: Path | None, through: str, json_file: Path | None, **options: Any
) -> None:
    """Compare two models on random inputs and on data: bits at the binarizers if B was compiled from A, and outputs."""
    from bnncc.gates import failures, verify_gates
    from bnncc.tables import print_gates, print_verify
    from bnncc.verification import verify

    config = _config(**options)
    inputs = [reference, compiled, data]
    _check_json(json_file, inputs)
    with progress_line() as progress:
        report = verify(reference, compiled, data, config, through, progress)
    gates = verify_gates(config, report)
    _write_json(report, json_file, inputs)

    def draw(console: Console) -> None:
        print_verify(report, console)
        print_gates(gates, console)

    emit_tables(draw)
    causes = failures(gates)
    if not report.passed:
        causes.insert(0, f"verification failed: {'; '.join(report.failures)}")
    if causes:
        raise GateFailed(f"{compiled}: {'; '.join(causes)}")


@main.command("bench")
@_model
@click.option("--against", type=_FILE, metavar="OTHER.onnx", help="A model to time in turns with it.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Samples per call. [default: 1]")
@_data
@click.option("--repeats", type=click.IntRange(min=1), metavar="N", help="Calls of each model.")
@click.option(
    "--min-time",
    type=click.FloatRange(min=0),
    default=2.0,
    metavar="S",
    help="Seconds, without --repeats. [default: 2]",
)
@click.option(
    "--in-a-row",
    type=click.IntRange(min=1),
    metavar="N",
    help="Calls of a model before the other's turn; 1: single calls alternate. [default: 8, fewer of slow models]",
)
@click.option("--profile", is_flag=True, help="Say how long each op takes, by onnxruntime's profiler.")
@click.option("--layers", is_flag=True, help="Time each binary layer alone, against float32's.")
@_options(_seed, _threads, _shapes, _json)
@_verbose_option
def bench_command(
    model: Path,
    against: Path | None,
    batch: int | None,
    data: Path | None,
    repeats: int | None,
    min_time: float,
    threads: int | None,
    json_file: Path | None,
    in_a_row: int | None,
    profile: bool,
    layers: bool,
    **options: Any,
) -> None:
    """Time calls of MODEL.onnx, and of another model in turns with it: medians and their ratio."""
    from bnncc.benchmark import bench
    from bnncc.tables import print_bench

    inputs = [model, against, data]
    _check_json(json_file, inputs)
    threads = 1 if threads is None else threads
    with progress_line() as progress:
        report = bench(
            model,
            against,
            threads,
            batch,
            data,
            repeats,
            min_time,
            _config(**options),
            progress,
            profile,
            layers,
            in_a_row,
        )
    _write_json(report, json_file, inputs)
    emit_tables(lambda console: print_bench(report, console))


@main.command("run")
@_model
@click.option(
    "--data", type=_FILE, required=True, metavar="X.npz", help='Inputs by name, and "labels" if there are any.'
)
@click.option("-o", "--output", type=_FILE, metavar="Y.npz", help="Write the outputs, by name.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Samples per call. [default: 32]")
@_options(_threads, _shapes, _json)
@_verbose_option
def run_command(
    model: Path,
    data: Path,
    output: Path | None,
    batch: int | None,
    threads: int | None,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Run MODEL.onnx, compiled or not, over the samples of a data file and sum up what it gives."""
    from bnncc.running import print_run, run_file

    inputs = [model, data]
    _check_json(json_file, inputs)
    with progress_line() as progress:
        report = run_file(model, data, output, batch, 1 if threads is None else threads, _config(**options), progress)
    _write_json(report, json_file, inputs)
    emit_tables(lambda console: print_run(report, console))


class _Numbers(click.ParamType):
    """Numbers between commas."""

    name = "A,B,..."

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not of the form 1,2,3", param, ctx)


@main.command("tropnnc-sweep")
@_model
@click.option("--data", type=_FILE, metavar="X.npz", help='Inputs by name, and "labels" for accuracies.')
@click.option("--target-params", type=_Numbers(float), metavar="0.8,0.6", help="Shares of all parameters. "
              "[default: 0.9,0.8,...,0.4]")  # fmt: skip
@click.option("--target-flops", type=_Numbers(float), metavar="0.8,0.6", help="Shares of all operations instead.")
@click.option("--thresholds", metavar="v1,v2", help="Kinds of distance to cut at. [default: v1,v2,v3]")
@click.option("--plot", type=_FILE, metavar="F.png", help="Draw it over parameters (matplotlib).")
@_options(_tropnnc, _threads, _shapes, _json)
@_verbose_option
def tropnnc_sweep_command(
    model: Path,
    data: Path | None,
    target_params: tuple[float, ...] | None,
    target_flops: tuple[float, ...] | None,
    thresholds: str | None,
    plot: Path | None,
    tropnnc: Sequence[tuple[str, str, Any]],
    json_file: Path | None,
    **options: Any,
) -> None:
    """Show what sizes of MODEL.onnx TropNNC can reach, and what each costs; which of them no other is better than."""
    from bnncc.tropnnc_sweep import SHARES, THRESHOLDS, plot_sweep, print_sweep, tropnnc_sweep

    if target_params and target_flops:
        raise click.UsageError("give one of --target-params and --target-flops")
    inputs = [model, data]
    _check_files(json_file, plot, inputs)
    with progress_line() as progress:
        report = tropnnc_sweep(
            model,
            data,
            "target_flops" if target_flops else "target_params",
            target_flops or target_params or SHARES,
            THRESHOLDS if thresholds is None else tuple(thresholds.split(",")),
            _tropnnc_settings(tropnnc, Config()),
            _config(**options),
            progress,
        )
    _write_json(report, json_file, inputs)
    emit_tables(lambda console: print_sweep(report, console))
    if plot is not None:
        plot_sweep(report, plot)


def _check_files(json_file: Path | None, plot: Path | None, inputs: Sequence[Path | None]) -> None:
    """Refuse impossible files before the work."""
    if json_file is not None and plot is not None and json_file.resolve() == plot.resolve():
        raise BadInput(f"{plot}: the plot and the JSON cannot be one file")
    _check_json(json_file, inputs)
    _check_json(plot, inputs)
    if plot is not None and plot.suffix != ".png":
        raise BadInput(f"{plot}: the plot is a PNG; give it a name that ends in .png")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise BadInput("--plot needs matplotlib: pip install matplotlib")


@main.command("tropnnc-table")
@_model
@click.option("--data", type=_FILE, required=True, metavar="X.npz", help='Inputs by name, and "labels".')
@click.option(
    "--keep", type=_Numbers(float), metavar="0.9,0.5", help="Shares of hidden channels. [default: 0.9,0.75,0.5,0.25]"
)
@click.option("--target-params", type=_Numbers(float), metavar="0.8,0.6", help="Shares of all parameters instead.")
@click.option("--target-flops", type=_Numbers(float), metavar="0.8,0.6", help="Shares of all operations instead.")
@click.option(
    "--methods",
    metavar="A,B",
    help="tropnnc, tropnnc-paper, tropnnc-algorithm-1, -algorithm-3, -svd, -sign-frozen, neural-path, zonotope, cup, "
    "thinet, l1, random; with -ward behind: Ward's clusters. [default: most]",
)
@click.option("--layers", "pattern", default="*", metavar="PATTERN", help="Only layers whose names match.")
@click.option("--activations", type=click.Choice(["relu", "any"]), default="relu", help="any: not only ReLU layers.")
@click.option("--fold", type=click.Choice(["each", "first"]), default="each", help="When batch-norms are folded in.")
@click.option("--seeds", type=_Numbers(int), metavar="0,1,2", help="Of K-means and random choices. [default: 0]")
@click.option("--plot", type=_FILE, metavar="F.png", help="Draw accuracy over parameters (matplotlib).")
@_options(_threads, _shapes, _json)
@_verbose_option
def tropnnc_table_command(
    model: Path,
    data: Path,
    keep: tuple[float, ...] | None,
    target_params: tuple[float, ...] | None,
    target_flops: tuple[float, ...] | None,
    methods: str | None,
    pattern: str,
    activations: str,
    fold: str,
    seeds: tuple[int, ...] | None,
    plot: Path | None,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Compare ways to leave fewer hidden channels in MODEL.onnx, without training: accuracy by method and size."""
    from bnncc.tropnnc_table import DEFAULT_METHODS, KEEPS, Which, plot_table, print_table, tropnnc_table

    given = {"keep": keep, "target_params": target_params, "target_flops": target_flops}
    given = {name: values for name, values in given.items() if values} or {"keep": KEEPS}
    if len(given) > 1:
        raise click.UsageError("give one of --keep, --target-params and --target-flops")
    ((amount, values),) = given.items()
    which = Which(pattern, activations == "any", fold == "first")
    inputs = [model, data]
    _check_files(json_file, plot, inputs)
    names = DEFAULT_METHODS if methods is None else tuple(methods.split(","))
    with progress_line() as progress:
        report = tropnnc_table(model, data, amount, values, names, seeds or (0,), _config(**options), which, progress)
    _write_json(report, json_file, inputs)
    emit_tables(lambda console: print_table(report, console))
    if plot is not None:
        plot_table(report, plot)
